//! Whether a type can boot the node's image.
//!
//! EC2 refuses a launch whose type cannot boot the image, but only once it is asked. With a survey such a
//! type is passed over before, with the reason. If a property of a type is unknown, the type is admitted, and
//! the launch asks EC2. (EC2 User Guide, "Instance type requirements for UEFI boot mode", "Enable enhanced
//! networking with ENA", "Requirements for using NitroTPM"; API reference, DescribeInstanceTypes.)

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::image::ImageFacts;

/// How a type boots, as EC2 describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boots {
    /// `legacy-bios`, `uefi`; empty when unknown.
    pub modes: Vec<String>,
    /// It starts only images that are made for ENA.
    pub requires_ena: bool,
    /// It has no NitroTPM.
    pub lacks_tpm: bool,
}

/// Properties that an image needs and some types lack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// It boots in this mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<String>,
    /// It is not made for ENA, so types that require ENA cannot boot it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_ena: bool,
    /// It needs a NitroTPM.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tpm: bool,
}

impl Needs {
    /// The needs of an image.
    #[must_use]
    pub fn of(image: &ImageFacts) -> Self {
        // `uefi-preferred`, and an image that states no mode, boot as the type does.
        let fixed = |mode: &&String| matches!(mode.as_str(), "uefi" | "legacy-bios");
        Self {
            boot_mode: image.boot_mode.as_ref().filter(fixed).cloned(),
            no_ena: !image.ena_support,
            tpm: image.tpm_support.is_some(),
        }
    }

    /// Whether every type can boot the image.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Why a type cannot boot the image.
    #[must_use]
    pub fn missing(&self, boots: &Boots) -> Option<String> {
        if let Some(mode) = &self.boot_mode
            && !boots.modes.is_empty()
            && !boots.modes.contains(mode)
        {
            return Some(format!("the image boots in {mode} only, it in {}", boots.modes.join(" or ")));
        }
        if self.no_ena && boots.requires_ena {
            return Some("it requires ENA, for which the image is not made".to_owned());
        }
        (self.tpm && boots.lacks_tpm).then(|| "the image needs a NitroTPM, which it has not".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(boot_mode: Option<&str>, ena_support: bool, tpm: bool) -> ImageFacts {
        ImageFacts {
            architecture: "x86_64".into(),
            root_device: "/dev/xvda".into(),
            boot_mode: boot_mode.map(str::to_owned),
            ena_support,
            tpm_support: tpm.then(|| "v2.0".to_owned()),
            imds_support: None,
            platform: None,
            mapped: Vec::new(),
        }
    }

    #[test]
    fn a_type_boots_an_image_unless_something_is_known_against_it() {
        let xen = Boots { modes: vec!["legacy-bios".into()], requires_ena: false, lacks_tpm: true };
        let nitro =
            Boots { modes: vec!["legacy-bios".into(), "uefi".into()], requires_ena: true, lacks_tpm: false };
        let unknown = Boots::default();
        for (image, against_xen, against_nitro) in [
            (image(None, true, false), None, None),
            (image(Some("uefi-preferred"), true, false), None, None),
            (image(Some("legacy-bios"), true, false), None, None),
            (image(Some("uefi"), true, false), Some("uefi only, it in legacy-bios"), None),
            (image(None, false, false), None, Some("requires ENA")),
            (image(Some("uefi-preferred"), true, true), Some("NitroTPM"), None),
        ] {
            let needs = Needs::of(&image);
            for (boots, against) in [(&xen, against_xen), (&nitro, against_nitro), (&unknown, None)] {
                let missing = needs.missing(boots);
                let said = missing.as_deref().zip(against).is_some_and(|(said, why)| said.contains(why));
                assert!(said || missing.is_none() && against.is_none(), "{image:?} {boots:?}: {missing:?}");
            }
        }
        assert!(Needs::of(&image(Some("uefi-preferred"), true, false)).is_nothing());
    }
}
