//! Nouns: the plain data that the node file, steps, events and facts are made of. This layer knows neither
//! operations nor the node file.

pub mod aws;
pub mod backup_id;
pub mod boot;
pub mod capacity;
pub mod image;
pub mod installation;
pub mod launch_template;
pub mod metadata;
pub mod name;
pub mod operation_id;
pub mod requirements;
pub mod resources;
pub mod restore;
pub mod root;
pub mod schedule;
pub mod signal;
pub mod survey;
pub mod text;
pub mod uefi;
pub mod volume;
