//! Every bound of this program in one place, each with its reason.

/// Files kept of one boot of one device. A server with everything installed runs some thousands; a device that reports
/// more is not judged on them any more ([`crate::store::Committed::TooManyFiles`]).
pub const MAX_FILES: usize = 65_536;
/// Entries kept of a device's history, operators' entries apart: a verdict that changes every five minutes fills it in
/// a month.
pub const MAX_HISTORY: u32 = 10_000;
/// Devices, files or entries in one answer.
pub const MAX_PAGE: usize = 1_000;
/// Devices in one answer where nothing is said.
pub const DEFAULT_PAGE: usize = 100;
/// Evidence in one transaction: beyond, latency grows and throughput does not.
pub const MAX_BATCH: usize = 512;
/// Jobs that wait for the writing thread; senders beyond wait themselves.
pub const MAX_QUEUED_JOBS: usize = 1_024;
/// Pages in SQLite's log (4 KiB each) from which a checkpoint may hold up readers: 400 MB.
pub const CHECKPOINT_RESTART_PAGES: i64 = 100_000;
/// Reading connections kept open.
pub const MAX_READERS: usize = 8;
/// Hours for which enrolment keys are kept: an enrolment that takes longer begins anew.
pub const ENROLMENT_KEY_HOURS: u64 = 2;

/// Body of an HTTP request: a product or a sentence.
pub const MAX_HTTP_BODY: usize = 16 * 1024;
/// HTTP connections at a time.
pub const MAX_HTTP_CONNECTIONS: usize = 256;
/// Longest wait for fresh evidence, seconds.
pub const MAX_CHECK_WAIT: u64 = 300;
/// HTTP connection on which nothing moves, seconds: longer than the longest wait.
pub const HTTP_IDLE: u64 = MAX_CHECK_WAIT + 30;
/// Text that an operator may write: why, product.
pub const MAX_OPERATOR_TEXT: usize = 512;
/// Answer that the command line accepts from the service.
pub const MAX_HTTP_ANSWER: u64 = 64 * 1024 * 1024;
