//! The ids of backups and of backup catalogs.

use std::fmt;

use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::name::NodeName;

/// The name of one backup of one node: `db-1.b12` is the twelfth backup of `db-1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct BackupId {
    node: NodeName,
    number: u64,
}

/// Why a text is no backup id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no backup: it should look like \"db-1.b12\" (node, dot, b, number)")]
pub struct BadBackupId {
    text: String,
}

impl BackupId {
    /// The `number`th backup of a node, counted from 1.
    #[must_use]
    pub const fn new(node: NodeName, number: u64) -> Self {
        Self { node, number }
    }

    /// Parses `db-1.b12`.
    ///
    /// # Errors
    /// [`BadBackupId`].
    pub fn parse(text: &str) -> Result<Self, BadBackupId> {
        let bad = || BadBackupId { text: text.chars().take(80).collect() };
        let (node, number) = text.rsplit_once(".b").ok_or_else(bad)?;
        let node = NodeName::parse(node).map_err(|_| bad())?;
        Ok(Self { node, number: canonical(number).ok_or_else(bad)? })
    }

    /// The node of the backup.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The backup's number, counted from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl TryFrom<String> for BackupId {
    type Error = BadBackupId;
    fn try_from(text: String) -> Result<Self, BadBackupId> {
        Self::parse(&text)
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.b{}", self.node, self.number))
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One backup catalog of a node: the stream `backup/db-1.3`. A full one is continued by the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogId {
    node: NodeName,
    number: u64,
}

impl CatalogId {
    /// The `number`th backup catalog of a node, counted from 1.
    #[must_use]
    pub const fn new(node: NodeName, number: u64) -> Self {
        Self { node, number }
    }

    /// The backup catalog of a stream, if it is one.
    #[must_use]
    pub fn of_stream(stream: &StreamId) -> Option<Self> {
        let (node, number) = stream.name().rsplit_once('.').filter(|_| stream.category() == "backup")?;
        Some(Self { node: NodeName::parse(node).ok()?, number: canonical(number)? })
    }

    /// The node of the backup catalog.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The catalog's number, counted from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The next backup catalog.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { node: self.node.clone(), number: self.number + 1 }
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        StreamId::parse(&format!("backup/{}.{}", self.node, self.number))
            .unwrap_or_else(|error| unreachable!("BUG: a catalog's name is a stream name: {error}"))
    }
}

/// The key that leads to the present backup catalog of a node.
#[must_use]
pub fn catalog_key(node: &NodeName) -> String {
    format!("backups/{node}")
}

/// A number has one spelling: `u64` alone would also accept `+3` and `03`.
fn canonical(number: &str) -> Option<u64> {
    let plain = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_and_a_book_have_one_spelling() {
        assert_eq!(BackupId::parse("db-1.b30").unwrap().to_string(), "db-1.b30");
        for wrong in ["db-1.30", "db-1.b03", "db-1.b0", "db-1.b", "db-1", ".b3", "db-1.b3 ", "b.b.b1"] {
            assert!(BackupId::parse(wrong).is_err(), "{wrong}");
        }
        let catalog = CatalogId::new(NodeName::parse("db-1").unwrap(), 3);
        assert_eq!(CatalogId::of_stream(&catalog.stream()), Some(catalog));
        assert_eq!(CatalogId::of_stream(&StreamId::parse("workflow/db-1.3").unwrap()), None);
    }
}
