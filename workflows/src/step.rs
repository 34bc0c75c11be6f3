//! The requests (intents) and the observations (evidence) of steps.

pub mod backup;
pub mod evidence;
pub mod intent;
pub mod name;
pub mod wake_hint;
