//! How devices stand: [`appraisal::Current`] from their rows. Lists and counts cannot ask it of a million devices, so what
//! it says is kept in columns that they filter by: the verdict while the last one holds, the verdict once it has expired,
//! and the codes of causes. They are brought in line in the transaction that changes anything of it, and only the instant
//! of the question is left to the query.

use std::collections::BTreeSet;

use appraisal::{Code, Current, DeviceState, Finding, Standing, UnixSeconds, Verdict};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Sql, decode, registry, signed, unsigned, verdict_from, verdict_number};

/// What [`Stands::read`] reads, of `device` d, `registration` r and `device_state` s.
pub(super) const COLUMNS: &str = "s.state, r.first_seen, r.revoked_why, r.revoked_at, r.denied_code, r.denied_why, \
                                  r.denied_at, r.key_changed, r.approved_at";

/// A device's last evidence and what is known of it besides.
pub(super) struct Stands {
    pub(super) state: Option<DeviceState>,
    pub(super) standing: Standing,
    enrolled: UnixSeconds,
}

/// What lists filter by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filed {
    /// While the last verdict holds.
    pub(super) verdict: Verdict,
    /// Once it has expired.
    pub(super) late: Verdict,
    /// Causes, but for those that time alone makes.
    pub(super) codes: BTreeSet<Code>,
}

impl Stands {
    /// From [`COLUMNS`], which begin at `first`.
    pub(super) fn read(row: &Row<'_>, first: usize) -> Sql<Self> {
        let state: Option<Vec<u8>> = row.get(first)?;
        let time = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(first + at)?.map(unsigned));
        let denial = registry::denial(row.get(first + 4)?, row.get(first + 5)?, row.get(first + 6)?);
        let standing = Standing {
            revoked: row.get(first + 2)?,
            revoked_at: time(3)?.unwrap_or(0),
            endorsement: denial.map(|denial| Finding {
                code: registry::identity_cause(&denial.code),
                detail: denial.why,
                since: denial.at,
            }),
            key_changed: time(7)?,
            approved_at: time(8)?.unwrap_or(0),
            ..Standing::default()
        };
        let state = state.map(|bytes| decode("device state", &bytes)).transpose()?;
        Ok(Self { state, standing, enrolled: time(1)?.unwrap_or(0) })
    }

    /// With the state that new evidence leaves. It was held against the list of denied firmware: what the registration says
    /// of that is over where the evidence does not say it too.
    pub(super) fn with(&self, state: &DeviceState) -> Self {
        let mut standing = self.standing.clone();
        if self.is_firmware_denied() && state.causes.iter().all(|cause| cause.code != Code::HardwareFirmwareDenied) {
            standing.endorsement = None;
        }
        Self { state: Some(state.clone()), standing, enrolled: self.enrolled }
    }

    /// With the state that re-appraising leaves, by other rules and the same evidence.
    pub(super) fn re_appraised(&self, state: DeviceState) -> Self {
        Self { state: Some(state), standing: self.standing.clone(), enrolled: self.enrolled }
    }

    /// Whether the registration says that a list denies the firmware.
    pub(super) fn is_firmware_denied(&self) -> bool {
        self.standing.endorsement.as_ref().is_some_and(|finding| finding.code == Code::HardwareFirmwareDenied)
    }

    /// At `now`.
    pub(super) fn at(&self, now: UnixSeconds) -> Current {
        let state = self.state.as_ref();
        let denied = |state: &DeviceState| {
            let cause = state.causes.iter().find(|cause| cause.code == Code::HardwareFirmwareDenied)?;
            Some(Finding { code: cause.code, detail: cause.detail.clone(), since: cause.first_seen })
        };
        // The list of denied firmware is not here. Where evidence was held against it, that stands until it is again;
        // where the list has changed since, the registration says so.
        match (&self.standing.endorsement, state.and_then(denied)) {
            (None, Some(finding)) => {
                let standing = Standing { endorsement: Some(finding), ..self.standing.clone() };
                Current::of(state, &standing, self.enrolled, now)
            }
            _ => Current::of(state, &self.standing, self.enrolled, now),
        }
    }

    /// While the last verdict holds, and when it has expired.
    pub(super) fn filed(&self) -> Filed {
        let holds = self.at(self.state.as_ref().map_or(0, |state| state.expires.saturating_sub(1)));
        let late = self.at(self.state.as_ref().map_or(0, |state| state.expires));
        let lasting = |code: &Code| !matches!(code, Code::NeverSeen | Code::Overdue);
        let codes = holds.causes.iter().map(|cause| cause.code).filter(lasting).collect();
        Filed { verdict: holds.verdict, late: late.verdict, codes }
    }
}

/// What lists say of device number `n` at `now`.
pub(super) fn listed(c: &Connection, n: i64, now: UnixSeconds) -> Sql<Verdict> {
    c.prepare_cached("SELECT iif(expires > ?2, verdict, late) FROM device WHERE n = ?1")?
        .query_row([n, signed(now)], |row| row.get(0).map(verdict_from))
}

/// Brings what lists filter by in line with everything else that is known of device number `n`.
pub(super) fn file(c: &Connection, n: i64) -> Sql<()> {
    let sql = format!(
        "SELECT {COLUMNS} FROM device d JOIN registration r ON r.device = d.n \
         LEFT JOIN device_state s ON s.device = d.n WHERE d.n = ?1"
    );
    let found = c.prepare_cached(&sql)?.query_row([n], |row| Stands::read(row, 0)).optional()?;
    let Some(stands) = found else { return Ok(()) };
    let Filed { verdict, late, codes } = stands.filed();
    c.prepare_cached("UPDATE device SET verdict = ?2, late = ?3 WHERE n = ?1 AND (verdict, late) <> (?2, ?3)")?
        .execute(params![n, verdict_number(verdict), verdict_number(late)])?;
    let known: Vec<String> = c
        .prepare_cached("SELECT code FROM device_cause WHERE device = ?1")?
        .query_map([n], |row| row.get(0))?
        .collect::<Sql<_>>()?;
    let known: BTreeSet<Code> = known.iter().filter_map(|code| Code::from_code(code)).collect();
    file_codes(c, n, &known, &codes)
}

/// The difference of two sets of causes.
pub(super) fn file_codes(c: &Connection, n: i64, old: &BTreeSet<Code>, new: &BTreeSet<Code>) -> Sql<()> {
    for gone in old.difference(new) {
        c.prepare_cached("DELETE FROM device_cause WHERE code = ?1 AND device = ?2")?
            .execute(params![gone.row().code, n])?;
    }
    for come in new.difference(old) {
        c.prepare_cached("INSERT OR IGNORE INTO device_cause (code, device) VALUES (?1, ?2)")?
            .execute(params![come.row().code, n])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evidence::claims::DeviceId;

    use super::{
        super::{
            Filter, NewRegistration, Place, Ruling, Store,
            tests::{NOW, accepted, ak, commit, contraindicated, id, registration, store},
        },
        *,
    };

    /// Says something about a device.
    type Word = (&'static str, fn(&Store, u64));

    const WORDS: [Word; 5] = [
        ("revoke", |store, number| assert!(store.revoke(id(number), "stolen", "ada", NOW + 5).unwrap())),
        ("key-changed", |store, number| {
            store.register(NewRegistration { ak: ak(number + 1000), now: NOW + 5, ..registration(number) }).unwrap();
        }),
        ("deny", |store, number| rule(store, number, "identity.ek-denied")),
        ("untrust", |store, number| rule(store, number, "identity.ek-untrusted")),
        ("approve", |store, number| assert!(store.approve(id(number), None, "ada", NOW + 5).unwrap())),
    ];

    fn rule(store: &Store, number: u64, code: &str) {
        let (all, _) = store.endorsed(Place::default(), 1000).unwrap();
        let endorsed = all.into_iter().find(|endorsed| endorsed.device == id(number)).unwrap();
        let ruling = Ruling { denied: Some((code.to_owned(), "listed".to_owned())), class: None };
        store.rule(vec![(endorsed, ruling)], NOW + 5).unwrap();
    }

    /// A device for every state that evidence leaves, and every one and two words about it.
    fn fleet(store: &Store) -> Vec<DeviceId> {
        let mut fleet = Vec::new();
        let words: Vec<Vec<Word>> = WORDS
            .iter()
            .flat_map(|first| {
                let two = WORDS.iter().map(move |second| vec![*first, *second]);
                std::iter::once(vec![*first]).chain(two)
            })
            .chain([vec![]])
            .collect();
        for said in words {
            for left in 0..4 {
                let number = fleet.len() as u64 + 1;
                store.register(registration(number)).unwrap();
                let mut evidence = contraindicated(accepted(number, 1, None));
                match left {
                    0 => {}
                    1 => drop(commit(store, accepted(number, 1, None))),
                    2 => drop(commit(store, evidence)),
                    _ => {
                        evidence.appraisal.state.causes[0].code = Code::RuntimeFromMemory;
                        commit(store, evidence);
                    }
                }
                said.iter().for_each(|(_, say)| say(store, number));
                fleet.push(id(number));
            }
        }
        fleet
    }

    #[test]
    fn lists_and_counts_say_what_each_device_shows_at_any_instant() {
        let (_folder, store) = store();
        let fleet = fleet(&store);
        for now in [NOW + 6, NOW + 10_000] {
            let mut by_verdict: BTreeMap<&str, BTreeSet<DeviceId>> = BTreeMap::new();
            let mut by_cause: BTreeMap<&str, BTreeSet<DeviceId>> = BTreeMap::new();
            for device in &fleet {
                let shown = store.device(*device, now).unwrap().unwrap().summary;
                by_verdict.entry(shown.verdict.name()).or_default().insert(*device);
                for cause in shown.causes {
                    by_cause.entry(cause.code.row().code).or_default().insert(*device);
                }
            }
            let listed = |filter: Filter| -> BTreeSet<DeviceId> {
                let page = store.devices(&Filter { limit: 1000, ..filter }, now).unwrap();
                assert_eq!(page.total, page.devices.len() as u64);
                page.devices.iter().map(|device| device.id).collect()
            };
            let counts = store.fleet(now).unwrap();
            for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
                let shown = by_verdict.remove(verdict.name()).unwrap_or_default();
                assert_eq!(counts.verdicts[at], shown.len() as u64, "{verdict} at {now}");
                assert_eq!(listed(Filter { verdict: Some(verdict), ..Filter::default() }), shown, "{verdict} at {now}");
            }
            for code in Code::ALL {
                let shown = by_cause.remove(code.row().code).unwrap_or_default();
                assert_eq!(listed(Filter { cause: Some(*code), ..Filter::default() }), shown, "{code:?} at {now}");
            }
        }
    }

    #[test]
    fn an_approval_ends_what_waits_for_an_operator_and_nothing_else() {
        let (_folder, store) = store();
        for (number, code) in [(1, Code::RuntimeFromMemory), (2, Code::RuntimeUnknownExecutable)] {
            store.register(registration(number)).unwrap();
            let mut evidence = contraindicated(accepted(number, 1, None));
            evidence.appraisal.state.causes[0].code = code;
            commit(&store, evidence);
            store.approve(id(number), None, "ada", NOW + 5).unwrap();
        }
        let shown = |number| store.device(id(number), NOW + 6).unwrap().unwrap().summary;
        assert_eq!((shown(1).verdict, shown(1).causes.len()), (Verdict::Affirmed, 0));
        assert_eq!((shown(2).verdict, shown(2).causes.len()), (Verdict::Contraindicated, 1));
        let last = store.history(id(1), NOW + 6).unwrap().pop().unwrap();
        assert_eq!((last.verdict, last.who.as_deref()), (Verdict::Affirmed, Some("ada")));
        assert_eq!(last.previous, Some(Verdict::Contraindicated));
        assert_eq!(store.history(id(2), NOW + 6).unwrap().pop().unwrap().previous, None, "it changed nothing");
    }

    #[test]
    fn evidence_that_was_judged_before_an_operator_spoke_does_not_undo_the_word() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, accepted(1, 1, None));
        store.revoke(id(1), "stolen", "ada", NOW + 2).unwrap();
        commit(&store, accepted(1, 3, Some(1)));
        let filter = Filter { verdict: Some(Verdict::Contraindicated), ..Filter::default() };
        assert_eq!(store.devices(&filter, NOW + 4).unwrap().total, 1);
        assert_eq!(store.device(id(1), NOW + 4).unwrap().unwrap().summary.verdict, Verdict::Contraindicated);
        // Nothing was new in it.
        assert_eq!(store.history(id(1), NOW + 4).unwrap().len(), 3);
    }
}
