//! Devices, networks and insiders that lie: each test is one statement of `docs/protocol.md` or `docs/appraisal.md`
//! that must hold against them.

mod lying_host;
mod lying_logs;
mod lying_quotes;
mod replays;
