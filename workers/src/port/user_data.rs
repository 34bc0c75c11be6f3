//! User data in the form that EC2 takes: base64.
//!
//! Many files hold it encoded already, because another tool wanted it so, or because a gzip has no other form
//! in a text. Encoded once more, the guest would get a text that no cloud-init knows, and boot without it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How user data begins, in the forms that cloud-init and EC2's agents for Windows know (cloud-init, "User
/// data formats"; EC2 User Guide, "Run commands on your Windows instance at launch").
const BEGINNINGS: [&[u8]; 16] = [
    b"#!",
    b"#cloud-config",
    b"#cloud-boothook",
    b"#include",
    b"#part-handler",
    b"#upstart-job",
    b"## template:",
    b"Content-Type:",
    b"Content-type:",
    b"content-type:",
    b"MIME-Version:",
    b"From nobody",
    b"<script>",
    b"<powershell>",
    b"version: 1.",
    b"\x1f\x8b",
];

/// The user data of a file as a request takes it. What is base64 of something that can be user data goes as
/// it is.
#[must_use]
pub fn encoded(text: &str) -> String {
    match decoded(text) {
        Some(bytes) => STANDARD.encode(bytes),
        None => STANDARD.encode(text),
    }
}

/// What is encoded in a text, if it is base64 of something that can be user data.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(compact).ok()?;
    BEGINNINGS.iter().any(|beginning| bytes.starts_with(beginning)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the guest gets of a file's text.
    fn guest(text: &str) -> Vec<u8> {
        STANDARD.decode(encoded(text)).unwrap()
    }

    #[test]
    fn a_text_reaches_the_guest_as_it_is_written() {
        for text in
            ["#!/bin/sh\necho hello\n", "#cloud-config\n{}", "aGVsbG8=", "IyE", "", "hunter2", "a b\nc"]
        {
            assert_eq!(guest(text), text.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn what_is_encoded_already_is_not_encoded_again() {
        let gzip: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff];
        for raw in [
            b"#!/bin/sh\necho hello\n".as_slice(),
            b"#cloud-config\n",
            b"Content-Type: multipart/mixed",
            gzip,
        ] {
            let once = STANDARD.encode(raw);
            let wrapped = format!("{}\n{}\n", &once[..8], &once[8..]);
            for text in [once, wrapped] {
                assert_eq!(guest(&text), raw, "{text}");
            }
        }
    }
}
