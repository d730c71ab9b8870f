//! Every bound of this program in one place, each with its reason.

use std::time::Duration;

use crate::rate::Rate;

/// Files kept of one boot of one device. A server with everything installed runs some thousands; a device that reports
/// more is not judged on them any more ([`crate::store::Committed::TooManyFiles`]).
pub const MAX_FILES: usize = 32_768;
/// Entries kept of a device's history, operators' entries apart: a verdict that changes every hour fills it in twelve
/// weeks.
pub const MAX_HISTORY: u32 = 2_000;
/// Causes of one entry of a list or history; the device's own page has all.
pub const MAX_LISTED_CAUSES: usize = 16;
/// Bytes of a cause's detail there.
pub const MAX_LISTED_DETAIL: usize = 512;
/// Devices, files or entries in one answer.
pub const MAX_PAGE: usize = 1_000;
/// Devices in one answer where nothing is said.
pub const DEFAULT_PAGE: usize = 100;
/// Evidence in one transaction: beyond, latency grows and throughput does not.
pub const MAX_BATCH: usize = 512;
/// Jobs that wait for the writing thread; senders beyond wait themselves.
pub const MAX_QUEUED_JOBS: usize = 1_024;
/// Pages in SQLite's log (4 KiB each) beyond which a commit waits for a checkpoint: 200 MB, a second's work for a disk.
pub const MAX_LOG_PAGES: i64 = 50_000;
/// Reading connections kept open.
pub const MAX_READERS: usize = 8;
/// Endorsement keys of one device. A TPM has one of each of three kinds; who makes up keys and proves them in software
/// gathers no more than these.
pub const MAX_EKS: usize = 8;
/// Hours for which enrolment keys are kept: an enrolment that takes longer begins anew.
pub const ENROLMENT_KEY_HOURS: u64 = 2;

/// Body of an HTTP request: a product or a sentence.
pub const MAX_HTTP_BODY: usize = 16 * 1024;
/// Endorsement keys that an operator lists in one go.
pub const MAX_ALLOWED: usize = 100_000;
/// Body of a request that lists them: an id and a short product each.
pub const MAX_ALLOWED_BODY: usize = 16 * 1024 * 1024;
/// A file that lists them, bytes.
pub const MAX_ALLOWED_FILE: u64 = 16 * 1024 * 1024;
/// HTTP connections at a time.
pub const MAX_HTTP_CONNECTIONS: usize = 256;
/// Longest wait for fresh evidence, seconds.
pub const MAX_CHECK_WAIT: u64 = 300;
/// HTTP connection on which nothing moves, seconds: longer than the longest wait.
pub const HTTP_IDLE: u64 = MAX_CHECK_WAIT + 30;
/// Labels of a device: a name, a place, an owner, a group; more belongs into an inventory.
pub const MAX_LABELS: usize = 16;
/// Characters of a label's key.
pub const MAX_LABEL_KEY: usize = 32;
/// Characters of a label's value.
pub const MAX_LABEL_VALUE: usize = 128;
/// Characters of a token's name, which stands in every line that its holder leaves.
pub const MAX_TOKEN_NAME: usize = 32;
/// Tokens of operators: all are compared with each request's.
pub const MAX_TOKENS: usize = 256;
/// Text that an operator may write: why, product.
pub const MAX_OPERATOR_TEXT: usize = 512;
/// Answer that the command line accepts from the service.
pub const MAX_HTTP_ANSWER: u64 = 64 * 1024 * 1024;

/// Messages that have arrived from the broker and wait to be judged, and as many as it is told that it may send ahead of their
/// acknowledgement: two batches, one judged while one arrives. At 100 KiB each they take 100 MB at the most.
pub const MAX_UNACKNOWLEDGED: usize = 2 * MAX_BATCH;
/// Answers that wait for the connection to the broker.
pub const MAX_QUEUED_ANSWERS: usize = 2 * MAX_BATCH;
/// A policy, or a file that says who may sign, bytes: hand-written.
pub const MAX_POLICY_FILE: u64 = 1024 * 1024;
/// The deny list, bytes: a hundred thousand endorsement keys.
pub const MAX_DENY_FILE: u64 = 16 * 1024 * 1024;
/// Registrations that are held against changed lists in one go: some hundred milliseconds' work.
pub const MAX_RECHECKED: usize = 256;
/// A signed document, bytes: a list of four million endorsement keys. Releases and notices have a bound of their own, which
/// reading them holds them to.
pub const MAX_DOCUMENT_FILE: u64 = 512 * 1024 * 1024;
/// Files in the folder of reference values: some for each of a thousand releases.
pub const MAX_REFERENCE_FILES: usize = 16_384;
/// Body of a request that publishes one, bytes: the largest document.
pub const MAX_PUBLISHED: usize = 512 * 1024 * 1024;
/// Published documents that are read at a time: each may take half a gigabyte while it is checked.
pub const MAX_PUBLISHING: usize = 1;
/// How long the next one waits, seconds.
pub const PUBLISH_WAIT: u64 = 30;
/// How long a document may take to arrive, seconds.
pub const PUBLISH_ARRIVES: u64 = 300;
/// How often the folder of reference values is looked at.
pub const REFERENCE_LOOK: Duration = Duration::from_secs(1);
/// How often a set that could not be taken for want of disk or store is tried again.
pub const REFERENCE_RETRY: Duration = Duration::from_secs(15);

/// Devices whose rates are remembered at a time; each takes some 50 bytes.
pub const MAX_RATED_DEVICES: usize = 1_000_000;
/// Enrolling clients whose rates are remembered at a time. They can name themselves at will; at the bound newcomers wait.
pub const MAX_RATED_CLIENTS: usize = 65_536;
/// Challenges on a device's own wish: as many as it may send evidence for.
pub const HELLO_RATE: Rate = EVIDENCE_RATE;
/// Evidence of one device. A long log comes in segments of 100 KiB, each after an answer to the last.
pub const EVIDENCE_RATE: Rate = Rate { burst: 64, every: Duration::from_millis(250) };
/// Signed refusals to one device.
pub const REFUSAL_RATE: Rate = Rate { burst: 8, every: Duration::from_secs(2) };
/// Requests for the rest of a log. Only evidence that moved a position forward leads to one.
pub const CONTINUE_RATE: Rate = Rate { burst: 64, every: Duration::from_millis(250) };
/// Enrolment messages of one client: two make an enrolment, which may be tried again.
pub const ENROL_CLIENT_RATE: Rate = Rate { burst: 6, every: Duration::from_secs(5) };
/// Enrolment messages of all strangers, and as many of all devices that renew: each costs certificate paths and an
/// encryption, a millisecond or two.
pub const ENROL_RATE: Rate = Rate { burst: 200, every: Duration::from_millis(20) };
/// Certificates for the broker that one device is given: a device without memory takes one at each start. All are remembered
/// until they end, to be revoked with it: some two thousand at this rate.
pub const CERTIFICATE_RATE: Rate = Rate { burst: 32, every: Duration::from_secs(3600) };
/// Lines in the log about one kind of refusal.
pub const LOG_RATE: Rate = Rate { burst: 5, every: Duration::from_secs(10) };

/// Times that evidence is judged again because the device's state moved meanwhile.
pub const MAX_JUDGEMENTS: u32 = 4;
/// Causes in one result, and bytes of each one's detail: 36 KB, far below the longest message.
pub const MAX_RESULT_CAUSES: usize = 64;
/// See [`MAX_RESULT_CAUSES`].
pub const MAX_RESULT_DETAIL: usize = 512;
/// Operators' questions that wait to be sent.
pub const MAX_QUEUED_CHECKS: usize = 256;

/// A message shorter than this was not cut for want of room, bytes: a device that has more fills its message up to an
/// entry, and an entry takes 5 KiB at most.
pub const CUT_FROM: usize = 16 * 1024;

/// How far clocks of one verifier's processes may be apart, seconds.
pub const CLOCK_TOLERANCE: u64 = 5;
/// A leap of the clock that is not believed at once, seconds: more than a time server corrects by slewing.
pub const CLOCK_LEAP: u64 = 60;
/// How long a clock must run on after such a leap before it is believed, seconds.
pub const CLOCK_SETTLES: u64 = 60;
/// How long a set of this verifier's keys holds, seconds: 400 days.
pub const KEYS_LIFETIME: u64 = 400 * 24 * 3600;
/// Keys are renewed when less than this is left, seconds: a quarter.
pub const KEYS_RENEWAL: u64 = KEYS_LIFETIME / 4;
/// How often keys and epochs are looked up in the store where nothing else calls for it, seconds.
pub const LOOK_AGAIN: u64 = 30;
/// Looks into the store for an epoch that only another process knows yet.
pub const EPOCH_LOOKUP_RATE: Rate = Rate { burst: 2, every: Duration::from_secs(5) };
/// Requests after evidence that is older than what is known of a device: one shows whether its TPM was cleared; a copier
/// of old messages must not make a device quote for ever.
pub const REPLAY_REQUEST_RATE: Rate = Rate { burst: 1, every: Duration::from_secs(60) };

/// Devices whose rows are brought in line with new rules in one transaction: evidence that is to be committed waits no
/// longer than one takes.
pub const MAX_REJUDGED: usize = 256;
/// Devices whose postures are worked out in one transaction.
pub const MAX_UNPOSED: usize = 256;
