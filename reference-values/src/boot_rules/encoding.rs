//! Boot rules as CBOR, inside the raw value of a measurement: in, bytes; out, [`BootRules`]; and back. The rules of the
//! format stand in `docs/reference-values.cddl`; whatever has two encodings is refused in all but one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    AttesterIn, BootRules, CommandLine, EventKey, EventRule, ImaPolicy, Kernel, Kexec, Keys, Lockdown, SecureBootRule,
};
use crate::{
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_COMMAND_LINES, MAX_EVENT_KEYS, MAX_RULE_DIGESTS, MAX_SEQUENCES},
    release::Invalid,
};

const SEQUENCES: u64 = 0;
const ANY_OF: u64 = 1;
const UNJUDGED: u64 = 2;
const DIGEST: &str = "a SHA-256 digest has 32 bytes";

impl BootRules {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = ItemWriter::default();
        let optional = [!self.command_lines.is_empty(), self.kernel.is_some(), self.attester.is_some()];
        out.map(optional.iter().filter(|&&present| present).count().saturating_add(3));
        out.uint(1).array(self.events.len());
        for (key, rule) in &self.events {
            out.array(3).uint(key.pcr.into()).uint(key.event_type.into());
            encode_rule(&mut out, rule);
        }
        out.uint(2).array(self.separators.len());
        for &pcr in &self.separators {
            out.uint(pcr.into());
        }
        out.uint(3);
        encode_secure_boot(&mut out, &self.secure_boot);
        if !self.command_lines.is_empty() {
            out.uint(4).array(self.command_lines.len());
            for line in &self.command_lines {
                out.text(line.pattern());
            }
        }
        if let Some(kernel) = &self.kernel {
            out.uint(5).map(4).uint(0).text(&kernel.release).uint(1).boolean(kernel.modules_signed);
            out.uint(2).uint(lockdown_number(kernel.lockdown)).uint(3).uint(kexec_number(kernel.kexec));
        }
        if let Some(attester) = self.attester {
            out.uint(6).uint(match attester {
                AttesterIn::Initrd => 0,
                AttesterIn::Verity => 1,
            });
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut items = Items::new("boot rules", bytes)?;
        let (mut events, mut separators, mut secure_boot) = (None, None, None);
        let (mut command_lines, mut kernel, mut attester) = (Vec::new(), None, None);
        for _ in 0..items.map()? {
            let key = items.key("boot-rules")?;
            match key.number {
                1 => events = Some(decode_events(&mut items)?),
                2 => separators = Some(decode_pcrs(&mut items)?),
                3 => secure_boot = Some(decode_secure_boot(&mut items)?),
                4 => command_lines = decode_command_lines(&mut items)?,
                5 => kernel = Some(decode_kernel(&mut items)?),
                6 => attester = Some(decode_attester(&mut items)?),
                _ => return Err(key.unsupported()),
            }
        }
        let (Some(events), Some(separators), Some(secure_boot)) = (events, separators, secure_boot) else {
            return Err(items.malformed("boot-rules lacks events, separators or secure-boot").into());
        };
        let mut rules = Self::new(events, separators, secure_boot)?.with_command_lines(command_lines)?;
        if let Some(kernel) = kernel {
            rules = rules.with_kernel(kernel)?;
        }
        match attester {
            Some(place) => Ok(rules.with_attester(place)?),
            None => Ok(rules),
        }
    }
}

fn encode_rule(out: &mut ItemWriter, rule: &EventRule) {
    match rule {
        EventRule::Sequences(all) => {
            out.array(2).uint(SEQUENCES).array(all.len());
            all.iter().for_each(|sequence| encode_digests(out, sequence));
        }
        EventRule::AnyOf { digests, at_least, at_most } => {
            out.array(4).uint(ANY_OF);
            encode_digests(out, digests);
            out.uint((*at_least).into()).uint((*at_most).into());
        }
        EventRule::Unjudged => {
            out.array(1).uint(UNJUDGED);
        }
    }
}

fn encode_digests<'a, I: IntoIterator<Item = &'a [u8; 32], IntoIter: ExactSizeIterator>>(
    out: &mut ItemWriter,
    digests: I,
) {
    let digests = digests.into_iter();
    out.array(digests.len());
    for digest in digests {
        out.bytes(digest);
    }
}

fn encode_secure_boot(out: &mut ItemWriter, rule: &SecureBootRule) {
    let judged = [(1, &rule.pk), (2, &rule.kek), (3, &rule.db)];
    let judged = judged.into_iter().filter_map(|(key, keys)| Some((key, keys.as_ref()?))).collect::<Vec<_>>();
    out.map(judged.len().saturating_add(2)).uint(0).boolean(rule.required);
    for (key, keys) in judged {
        out.uint(key);
        encode_digests(out, keys);
    }
    out.uint(4);
    encode_digests(out, &rule.dbx_at_least);
}

fn decode_events(items: &mut Items<'_>) -> Result<BTreeMap<EventKey, EventRule>, Unreadable> {
    let mut events = BTreeMap::new();
    for _ in 0..bounded(items.array()?, "kinds of events in boot rules", MAX_EVENT_KEYS)? {
        items.array_of(3, "an event rule has a PCR, an event type and what is allowed")?;
        let key = EventKey { pcr: decode_pcr(items)?, event_type: decode_u32(items)? };
        if events.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(Invalid::Order("event rules").into());
        }
        events.insert(key, decode_rule(items)?);
    }
    Ok(events)
}

fn decode_rule(items: &mut Items<'_>) -> Result<EventRule, Unreadable> {
    let parts = items.array()?;
    let at = items.at();
    match (items.uint()?, parts) {
        (SEQUENCES, 2) => {
            let mut sequences = BTreeSet::new();
            for _ in 0..bounded(items.array()?, "sequences of one kind of event", MAX_SEQUENCES)? {
                insert_last(&mut sequences, decode_sequence(items)?, "sequences of digests")?;
            }
            Ok(EventRule::Sequences(sequences))
        }
        (ANY_OF, 4) => {
            let digests = decode_keys(items)?;
            Ok(EventRule::AnyOf { digests, at_least: decode_u32(items)?, at_most: decode_u32(items)? })
        }
        (UNJUDGED, 1) => Ok(EventRule::Unjudged),
        (kind, _) => {
            let item = format!("rule {kind} of {parts} parts");
            Err(Unreadable::Unsupported { place: "event-rule", item, at })
        }
    }
}

fn decode_sequence(items: &mut Items<'_>) -> Result<Vec<[u8; 32]>, Unreadable> {
    let length = bounded(items.array()?, "digests in boot rules", MAX_RULE_DIGESTS)?;
    (0..length).map(|_| Ok(items.bytes_of(DIGEST)?)).collect()
}

/// Digests in ascending order, each once.
fn decode_keys(items: &mut Items<'_>) -> Result<Keys, Unreadable> {
    let mut keys = Keys::new();
    for _ in 0..bounded(items.array()?, "digests in boot rules", MAX_RULE_DIGESTS)? {
        insert_last(&mut keys, items.bytes_of(DIGEST)?, "digests")?;
    }
    Ok(keys)
}

fn decode_pcrs(items: &mut Items<'_>) -> Result<BTreeSet<u8>, Unreadable> {
    let mut pcrs = BTreeSet::new();
    for _ in 0..items.array()? {
        insert_last(&mut pcrs, decode_pcr(items)?, "PCRs with a separator")?;
    }
    Ok(pcrs)
}

fn decode_secure_boot(items: &mut Items<'_>) -> Result<SecureBootRule, Unreadable> {
    let (mut required, mut dbx, mut rule) = (None, None, SecureBootRule::default());
    for _ in 0..items.map()? {
        let key = items.key("secure-boot")?;
        match key.number {
            0 => required = Some(items.boolean()?),
            1 => rule.pk = Some(decode_keys(items)?),
            2 => rule.kek = Some(decode_keys(items)?),
            3 => rule.db = Some(decode_keys(items)?),
            4 => dbx = Some(decode_keys(items)?),
            _ => return Err(key.unsupported()),
        }
    }
    let (Some(required), Some(dbx_at_least)) = (required, dbx) else {
        return Err(items.malformed("secure-boot lacks required or dbx-at-least").into());
    };
    Ok(SecureBootRule { required, dbx_at_least, ..rule })
}

fn decode_command_lines(items: &mut Items<'_>) -> Result<Vec<CommandLine>, Unreadable> {
    let empty = items.malformed("an empty list of command lines is left out");
    let count = bounded(items.array()?, "command lines", MAX_COMMAND_LINES)?;
    if count == 0 {
        return Err(empty.into());
    }
    let mut lines = BTreeSet::new();
    for _ in 0..count {
        insert_last(&mut lines, CommandLine::parse(items.text()?)?, "command lines")?;
    }
    Ok(lines.into_iter().collect())
}

fn decode_kernel(items: &mut Items<'_>) -> Result<Kernel, Unreadable> {
    let (mut release, mut modules_signed, mut lockdown, mut kexec) = (None, None, None, None);
    for _ in 0..items.map()? {
        let key = items.key("kernel")?;
        match key.number {
            0 => release = Some(items.text()?.to_owned()),
            1 => modules_signed = Some(items.boolean()?),
            2 => lockdown = Some(decode_lockdown(items)?),
            3 => kexec = Some(decode_kexec(items)?),
            _ => return Err(key.unsupported()),
        }
    }
    let (Some(release), Some(modules_signed), Some(lockdown), Some(kexec)) = (release, modules_signed, lockdown, kexec)
    else {
        return Err(items.malformed("kernel lacks one of its four statements").into());
    };
    Ok(Kernel { release, modules_signed, lockdown, kexec })
}

const fn lockdown_number(lockdown: Lockdown) -> u64 {
    match lockdown {
        Lockdown::Absent => 0,
        Lockdown::OnRequest => 1,
        Lockdown::WithSecureBoot => 2,
        Lockdown::Always => 3,
    }
}

fn decode_lockdown(items: &mut Items<'_>) -> Result<Lockdown, Unreadable> {
    let all = [Lockdown::Absent, Lockdown::OnRequest, Lockdown::WithSecureBoot, Lockdown::Always];
    let at = items.at();
    let number = items.uint()?;
    all.into_iter().find(|lockdown| lockdown_number(*lockdown) == number).ok_or_else(|| Unreadable::Unsupported {
        place: "kernel",
        item: format!("lockdown {number}"),
        at,
    })
}

const fn kexec_number(kexec: Kexec) -> u64 {
    match kexec {
        Kexec::Absent => 0,
        Kexec::FileOnly => 1,
        Kexec::Any => 2,
    }
}

fn decode_kexec(items: &mut Items<'_>) -> Result<Kexec, Unreadable> {
    let at = items.at();
    let number = items.uint()?;
    let all = [Kexec::Absent, Kexec::FileOnly, Kexec::Any];
    all.into_iter().find(|kexec| kexec_number(*kexec) == number).ok_or_else(|| Unreadable::Unsupported {
        place: "kernel",
        item: format!("kexec {number}"),
        at,
    })
}

fn decode_attester(items: &mut Items<'_>) -> Result<AttesterIn, Unreadable> {
    let at = items.at();
    match items.uint()? {
        0 => Ok(AttesterIn::Initrd),
        1 => Ok(AttesterIn::Verity),
        other => Err(Unreadable::Unsupported { place: "boot-rules", item: format!("attester in {other}"), at }),
    }
}

fn decode_pcr(items: &mut Items<'_>) -> Result<u8, Unreadable> {
    let pcr = items.uint()?;
    Ok(u8::try_from(pcr).map_err(|_| Invalid::Pcr(pcr))?)
}

fn decode_u32(items: &mut Items<'_>) -> Result<u32, Unreadable> {
    let large = items.malformed("a number of 32 bits is expected");
    Ok(u32::try_from(items.uint()?).map_err(|_| large)?)
}

/// Inserts what must be greater than everything before it.
fn insert_last<T: Ord>(set: &mut BTreeSet<T>, item: T, what: &'static str) -> Result<(), Unreadable> {
    if set.last().is_some_and(|last| *last >= item) {
        return Err(Invalid::Order(what).into());
    }
    set.insert(item);
    Ok(())
}

fn bounded(n: usize, what: &'static str, limit: usize) -> Result<usize, Unreadable> {
    if n > limit { Err(Invalid::TooMany { what, limit }.into()) } else { Ok(n) }
}

impl ImaPolicy {
    /// What is said of it beside its digest and path.
    pub(crate) fn encode_flags(&self) -> Vec<u8> {
        let mut out = ItemWriter::default();
        out.map(1).uint(0).boolean(self.measures_kexec);
        out.finish()
    }

    /// Whether it measures kexec.
    pub(crate) fn decode_flags(bytes: &[u8]) -> Result<bool, Unreadable> {
        let mut items = Items::new("IMA policy", bytes)?;
        let wrong = items.malformed("an IMA policy says whether it measures kexec, and nothing else");
        if items.map()? != 1 {
            return Err(wrong.into());
        }
        let key = items.key("ima-policy")?;
        if key.number == 0 { Ok(items.boolean()?) } else { Err(key.unsupported()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> impl Strategy<Value = [u8; 32]> {
        any::<[u8; 32]>()
    }

    fn rule() -> impl Strategy<Value = EventRule> {
        let sequence = prop::collection::vec(digest(), 0..4);
        prop_oneof![
            (prop::collection::btree_set(sequence, 0..4), digest()).prop_map(|(mut all, one)| {
                all.insert(vec![one]);
                EventRule::Sequences(all)
            }),
            (prop::collection::btree_set(digest(), 1..4), 0..3_u32, 1..3_u32).prop_map(|(digests, at_least, more)| {
                EventRule::AnyOf { digests, at_least, at_most: at_least + more }
            }),
            Just(EventRule::Unjudged),
        ]
    }

    fn key() -> impl Strategy<Value = EventKey> {
        (0..16_u8, any::<u32>())
            .prop_map(|(pcr, event_type)| EventKey { pcr, event_type })
            .prop_filter("no rule can be for it", |key| key.may_be_ruled())
    }

    fn keys() -> impl Strategy<Value = Keys> {
        prop::collection::btree_set(digest(), 0..3)
    }

    fn secure_boot() -> impl Strategy<Value = SecureBootRule> {
        let some = || prop::option::of(keys());
        (any::<bool>(), some(), some(), some(), keys())
            .prop_map(|(required, pk, kek, db, dbx_at_least)| SecureBootRule { required, pk, kek, db, dbx_at_least })
    }

    fn kernel() -> impl Strategy<Value = Kernel> {
        let lockdown = prop::sample::select(vec![
            Lockdown::Absent,
            Lockdown::OnRequest,
            Lockdown::WithSecureBoot,
            Lockdown::Always,
        ]);
        let kexec = prop::sample::select(vec![Kexec::Absent, Kexec::FileOnly, Kexec::Any]);
        ("[!-~]{1,64}", any::<bool>(), lockdown, kexec).prop_map(|(release, modules_signed, lockdown, kexec)| Kernel {
            release,
            modules_signed,
            lockdown,
            kexec,
        })
    }

    prop_compose! {
        fn rules()(
            events in prop::collection::btree_map(key(), rule(), 1..5),
            separators in prop::collection::btree_set(0..16_u8, 0..5),
            secure_boot in secure_boot(),
            lines in prop::collection::vec("(roothash=[a-z]{1,9} )?[ -~]{0,40}", 0..3),
            kernel in prop::option::of(kernel()),
            attester in prop::option::of(prop::sample::select(vec![AttesterIn::Initrd, AttesterIn::Verity])),
            bound in any::<bool>(),
        ) -> BootRules {
            let lines = lines.iter().map(|line| CommandLine::parse(line).unwrap()).collect::<Vec<_>>();
            let mut events = events;
            events.retain(|key, rule| *rule != EventRule::Unjudged || key.may_be_unjudged());
            events.insert(EventKey { pcr: 1, event_type: 10 }, EventRule::Unjudged);
            if bound {
                events.insert(EventKey { pcr: 11, event_type: 13 }, EventRule::Sequences([vec![[1; 32]]].into()));
            }
            let mut rules = BootRules::new(events, separators, secure_boot).unwrap().with_command_lines(lines).unwrap();
            rules.kernel = kernel;
            match attester {
                Some(place) => rules.clone().with_attester(place).unwrap_or(rules),
                None => rules,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_written_is_read_back(rules in rules()) {
            prop_assert_eq!(BootRules::decode(&rules.encode()), Ok(rules));
        }

        #[test]
        fn what_is_read_has_no_second_encoding(rules in rules(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = rules.encode();
            prop_assert!(BootRules::decode(bytes.get(..at.index(bytes.len())).unwrap()).is_err());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = BootRules::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }

    /// Event rules, separators and Secure Boot, each as bytes.
    fn written(events: &[u8], separators: &[u8], secure_boot: &[u8]) -> Result<BootRules, Unreadable> {
        BootRules::decode(&[&[0xA3, 1][..], events, &[2], separators, &[3], secure_boot].concat())
    }

    const NO_SECURE_BOOT: [u8; 5] = [0xA2, 0, 0xF4, 4, 0x80];

    #[test]
    fn rules_that_contradict_themselves_are_refused() {
        let unjudged = |pcr: u8, event_type: u8| vec![0x83, pcr, event_type, 0x81, 2];
        let events = |all: &[Vec<u8>]| [vec![0x80 + u8::try_from(all.len()).unwrap()], all.concat()].concat();
        assert!(written(&events(&[unjudged(1, 8), unjudged(5, 8)]), &[0x82, 0, 1], &NO_SECURE_BOOT).is_ok());
        let refused = [
            // No event at all, the same twice, out of order.
            (events(&[]), vec![0x80]),
            (events(&[unjudged(1, 8), unjudged(1, 8)]), vec![0x80]),
            (events(&[unjudged(5, 8), unjudged(1, 8)]), vec![0x80]),
            // PCRs and types that no rule is for.
            (events(&[unjudged(10, 8)]), vec![0x80]),
            (events(&[unjudged(16, 8)]), vec![0x80]),
            (events(&[unjudged(1, 3)]), vec![0x80]),
            (events(&[unjudged(1, 4)]), vec![0x80]),
            // A PCR of code that is not judged.
            (events(&[unjudged(4, 8)]), vec![0x80]),
            // Separators twice, out of order, in a PCR that does not exist.
            (events(&[unjudged(1, 8)]), vec![0x82, 1, 1]),
            (events(&[unjudged(1, 8)]), vec![0x82, 1, 0]),
            (events(&[unjudged(1, 8)]), vec![0x81, 16]),
            // Only the empty sequence; none; no digest; more at least than at most; an unknown kind.
            (vec![0x81, 0x83, 0, 8, 0x82, 0, 0x81, 0x80], vec![0x80]),
            (vec![0x81, 0x83, 0, 8, 0x82, 0, 0x80], vec![0x80]),
            (vec![0x81, 0x83, 0, 8, 0x84, 1, 0x80, 0, 1], vec![0x80]),
            ([&[0x81, 0x83, 0, 8, 0x84, 1, 0x81, 0x58, 32][..], &[7; 32], &[2, 1]].concat(), vec![0x80]),
            (vec![0x81, 0x83, 0, 8, 0x81, 3], vec![0x80]),
        ];
        for (events, separators) in refused {
            assert!(written(&events, &separators, &NO_SECURE_BOOT).is_err(), "{events:02x?} {separators:02x?}");
        }
        let sound = events(&[unjudged(1, 8)]);
        for secure_boot in
            [&[0xA1, 0, 0xF4][..], &[0xA1, 4, 0x80], &[0xA2, 0, 1, 4, 0x80], &[0xA3, 0, 0xF4, 4, 0x80, 5, 0]]
        {
            assert!(written(&sound, &[0x80], secure_boot).is_err(), "{secure_boot:02x?}");
        }
    }

    #[test]
    fn a_count_past_a_limit_is_refused_before_anything_is_kept() {
        let many = [vec![0xA3, 1, 0x99, 0x01, 0x01], [0x83, 1, 8, 0x81, 2].repeat(257)].concat();
        let all = [many, vec![2, 0x80, 3], NO_SECURE_BOOT.to_vec()].concat();
        assert!(matches!(BootRules::decode(&all), Err(Unreadable::Invalid(Invalid::TooMany { limit: 256, .. }))));
    }
}
