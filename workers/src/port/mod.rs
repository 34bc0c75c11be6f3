//! The port `Cloud`: only the EC2 calls we make, in our words.
//!
//! Looks return views of the authoritative objects; acts return what the call said and nothing more. Whether
//! an act worked is decided by a later look (look, act, look). Two adapters: `aws::Ec2` and the simulated
//! region.
//!
//! # Guarantees an adapter gives
//! - A look returns every page of what matches, and never an object that does not match.
//! - An act with a client token sends exactly that token; an adapter never invents one.
//! - An act that creates tags at creation; there is no call that tags afterwards.
//! - No adapter retries; retries are the workers', in one place.
//! - Errors are classified once, by [`error::classify`].

mod cloud;
pub mod error;
pub mod permissions;
mod request;
pub mod user_data;
mod view;

pub use cloud::Cloud;
pub use request::{
    ImageRequest, InterfaceRequest, LaunchNetwork, LaunchRequest, RootOverride, Select, SnapshotsRequest,
    Taking, TypeQuery, VolumeRequest,
};
pub use view::{
    AttachmentState, BlockDevice, ElasticView, ImageState, ImageTraits, ImageView, ImpairedView,
    InstanceInterface, InstanceView, InterfaceAttachment, InterfaceView, RootTaskState, RootTaskView,
    SnapshotState, SnapshotView, SpotRequestView, SubnetView, Tags, ToldTime, VolumeAttachment, VolumeState,
    VolumeView,
};
