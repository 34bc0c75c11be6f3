//! `perennial doctor`.

use clap::Args;

use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::Output;

/// Of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

/// x
pub(crate) fn no_configuration(failure: Failure, _output: Output) -> Result<(), Failure> {
    Err(failure)
}

/// x
pub(crate) async fn run(_args: &DoctorArgs, _i: &Installation, _output: Output) -> Result<(), Failure> {
    Ok(())
}
