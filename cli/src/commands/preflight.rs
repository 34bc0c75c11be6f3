//! What is checked before a file is applied, and by `doctor -f`: whether EC2 would take what it asks for.

use perennial_views::model::doctor::DoctorReport;
use perennial_workers::preflight::{Check, Verdict};
use perennial_workflows::model::aws::ImageId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::spec::node::NodeSpec;

use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, doctor};

/// How long the checks of a file may take. Eight pools are asked within three seconds; without an answer by
/// then, the file is applied, and the operation finds out.
#[cfg(feature = "aws")]
const LOOKS_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// Checks the nodes of files, all of them, and shows what is not as it should be.
///
/// # Errors
/// EC2 would refuse something; nothing was sent.
pub(crate) async fn of_files(
    specs: &[(String, NodeSpec)],
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let mut report = DoctorReport::default();
    let mut all = 0;
    for (_, spec) in specs {
        let Some(checks) = looked_at(spec, installation).await else { continue };
        let of = (specs.len() > 1).then_some(&spec.name);
        add(checks.iter().filter(|check| check.verdict != Verdict::Ok), of, &mut report);
        all += checks.len();
    }
    if !report.0.is_empty() {
        output.say(&doctor::report(&report));
    }
    match report.failed() {
        0 if all == 0 => Ok(()),
        0 => {
            output.say(&format!("preflight: {} of {all} checks are well", all - report.0.len()));
            Ok(())
        }
        failed => {
            let checks = if failed == 1 { "one check" } else { "some checks" };
            let what = if specs.len() > 1 { "nothing was applied" } else { "it was not applied" };
            Err(Failure::failed(format!("{checks} of the file failed; {what}"))
                .hint("correct the file, or apply it all the same with `--no-preflight`"))
        }
    }
}

/// Adds checks to a report: of which node, where there are several.
pub(crate) fn add<'c>(
    checks: impl IntoIterator<Item = &'c Check>,
    of: Option<&NodeName>,
    report: &mut DoctorReport,
) {
    for Check { check, verdict, found, to_do } in checks {
        let check = of.map_or_else(|| check.clone(), |name| format!("{name}: {check}"));
        match verdict {
            Verdict::Ok => report.ok(&check, found.as_str()),
            Verdict::Warn => report.warn(&check, found.as_str(), to_do),
            Verdict::Fail => report.fail(&check, found.as_str(), to_do),
        }
    }
}

/// Whether a node of this name is not known here: it has neither an address nor an interface yet.
#[cfg(feature = "aws")]
pub(crate) async fn is_new(name: &NodeName, installation: &Installation) -> bool {
    match installation.views_if_ready() {
        Ok(Some(views)) => views.node(name, 0).await.is_err(),
        Ok(None) | Err(_) => true,
    }
}

/// The checks of a file; `None` where there is no region to ask.
#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "the same signature as with AWS")]
async fn looked_at(_: &NodeSpec, _: &Installation) -> Option<Vec<Check>> {
    None
}

/// The same, with EC2 or a region on the wire.
#[cfg(feature = "aws")]
async fn looked_at(spec: &NodeSpec, installation: &Installation) -> Option<Vec<Check>> {
    use crate::installation::config::CloudKind;

    if installation.config.cloud == CloudKind::Sim {
        return None;
    }
    let aws = installation.aws().await;
    aws.region()?;
    let cloud = aws.cloud();
    let checks = async {
        // Who applies a file need not have credentials; the server has.
        cloud.identity().await.ok()?;
        let is_new = is_new(&spec.name, installation).await;
        Some(perennial_workers::preflight::of_node(cloud.as_ref(), spec, is_new).await)
    };
    tokio::time::timeout(LOOKS_MAX, checks).await.ok().flatten()
}

/// Checks that an image that a new root is asked from is there.
///
/// # Errors
/// It is not; nothing was sent.
#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "the same signature as with AWS")]
pub(crate) async fn of_image(_: &ImageId, _: &Installation) -> Result<(), Failure> {
    Ok(())
}

/// Checks that an image that a new root is asked from is there.
///
/// # Errors
/// It is not; nothing was sent.
#[cfg(feature = "aws")]
pub(crate) async fn of_image(image: &ImageId, installation: &Installation) -> Result<(), Failure> {
    use crate::installation::config::CloudKind;

    if installation.config.cloud == CloudKind::Sim {
        return Ok(());
    }
    let aws = installation.aws().await;
    if aws.region().is_none() {
        return Ok(());
    }
    let cloud = aws.cloud();
    let looked = perennial_workers::preflight::of_image(cloud.as_ref(), image);
    match tokio::time::timeout(LOOKS_MAX, looked).await {
        Ok(Err(why)) => Err(Failure::failed(why).hint("name an image that this account can launch")),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}
