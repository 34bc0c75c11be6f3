//! Files that people write: YAML or JSON, checked strictly, with errors that point at the place.

use std::io::Read as _;
use std::path::Path;

use perennial_workflows::spec::address_pool::AddressPoolSpec;
use perennial_workflows::spec::node::NodeSpec;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// The largest file that is read. A node file with the largest user data is under 40 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a file; `-` is stdin.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let shown = shown(path);
    let mut text = String::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    match result {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            Err(Failure::user(format!("{shown}: larger than {FILE_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::user(format!("{shown}: {error}"))),
    }
}

/// The name of a file in messages.
pub(crate) fn shown(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
}

/// Parses YAML or JSON.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str, schema: &str) -> Result<T, Failure> {
    serde_saphyr::from_str(text).map_err(|error| {
        let plain = error.without_snippet();
        let mut message = shown(path);
        if let Some(place) = plain.location() {
            message.push_str(&format!(":{}:{}", place.line(), place.column()));
        }
        let what = plain.to_string();
        let what = what.lines().next().unwrap_or_default();
        message.push_str(": ");
        // The place stands at the beginning already, where editors find it.
        message.push_str(what.rsplit_once(" at line ").map_or(what, |(what, _)| what));
        Failure::user(message).hint(format!("`perennial schema {schema}` shows what is allowed"))
    })
}

/// Reads a node file and checks all of it.
pub(crate) fn node(path: &Path) -> Result<NodeSpec, Failure> {
    let spec: NodeSpec = parse(path, &read(path)?, "node")?;
    spec.check().map_err(|error| Failure::user(format!("{}: {error}", shown(path))))?;
    Ok(spec)
}

/// Reads a pool file and checks all of it.
pub(crate) fn pool(path: &Path) -> Result<AddressPoolSpec, Failure> {
    let spec: AddressPoolSpec = parse(path, &read(path)?, "pool")?;
    spec.check().map_err(|error| Failure::user(format!("{}: {error}", shown(path))))?;
    Ok(spec)
}
