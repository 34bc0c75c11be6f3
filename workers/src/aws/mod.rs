//! The adapters over the AWS SDK.
