//! Shutting devices out at the broker: in go the devices that are revoked and the serial numbers of their certificates, out
//! come mosquitto's topic rules and a certificate revocation list, so that open connections carry nothing any more and no
//! new one is made.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use thiserror::Error;
use tokio::{sync::Notify, time::timeout};
use x509_cert::{crl::CertificateList, der::DecodePem as _};

use crate::{
    certificates::{BrokerCa, CLOCK_SKEW, CertificateError, Revoked},
    config::Broker,
    store::{Store, StoreError},
};

/// What follows this line in the topic rules is written here; what stands above it is the operator's.
pub const MARK: &str =
    "# Devices that are shut out. `verifier serve` writes what follows this line; write nothing below it.\n";
/// Another process of this verifier may have revoked, and certificates that end leave the list.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The broker's files could not be brought up to date.
#[derive(Debug, Error)]
pub enum AccessError {
    /// A file.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The list could not be signed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Who is revoked is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who is shut out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutOut {
    /// Devices, in order.
    pub devices: Vec<DeviceId>,
    /// Their certificates that have not ended.
    pub certificates: Vec<Revoked>,
}

/// The files by which the broker knows.
#[derive(Debug)]
pub struct Access {
    acl: PathBuf,
    crl: PathBuf,
    ca: Option<BrokerCa>,
    /// A file has changed that the broker was not told of.
    news: AtomicBool,
}

impl Access {
    /// As configured.
    ///
    /// # Errors
    /// [`CertificateError`] where the CA's files cannot be used.
    pub fn from_config(broker: &Broker) -> Result<Self, CertificateError> {
        let ca = BrokerCa::load(&broker.device_ca, &broker.ca_key)?;
        Ok(Self { acl: broker.acl.clone(), crl: broker.crl.clone(), ca, news: AtomicBool::default() })
    }

    /// Brings both files up to date; says whether either has changed. Files that are not there belong to another kind of
    /// broker, and a list that another CA signs is its own.
    ///
    /// # Errors
    /// [`AccessError`] names the file.
    pub fn update(&self, shut_out: &ShutOut, now: UnixSeconds) -> Result<bool, AccessError> {
        let (rules, list) = (self.update_rules(&shut_out.devices), self.update_list(&shut_out.certificates, now));
        if [&rules, &list].iter().any(|update| matches!(update, Ok(true))) {
            self.news.store(true, Ordering::Relaxed);
        }
        rules.and(list)?;
        Ok(self.has_news())
    }

    /// Whether the broker has something to read again that an update left behind; once. One file that cannot be written
    /// keeps it from none of the other.
    fn has_news(&self) -> bool {
        self.news.swap(false, Ordering::Relaxed)
    }

    /// Brings both files to where the store is, unless that is where they were `before`.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn catch_up(
        &self,
        store: &Store,
        before: Option<&ShutOut>,
        now: UnixSeconds,
    ) -> Result<(ShutOut, bool), AccessError> {
        let shut_out = store.shut_out(now)?;
        let changed = before != Some(&shut_out) && self.update(&shut_out, now)?;
        Ok((shut_out, changed))
    }

    fn update_rules(&self, revoked: &[DeviceId]) -> Result<bool, AccessError> {
        let Some(text) = read(&self.acl)? else { return Ok(false) };
        let above = text.find(MARK).and_then(|at| text.get(..at)).unwrap_or(&text);
        let mut new = format!("{}\n\n{MARK}", above.trim_end());
        for device in revoked {
            // Of a user's own rules those that deny come before all others, patterns included.
            let _ = write!(new, "user {device}\ntopic deny #\n");
        }
        if new == text {
            return Ok(false);
        }
        replace(&self.acl, &new).map(|()| true)
    }

    fn update_list(&self, revoked: &[Revoked], now: UnixSeconds) -> Result<bool, AccessError> {
        let (Some(ca), Some(text)) = (&self.ca, read(&self.crl)?) else { return Ok(false) };
        let before = Listed::read(&text);
        let wanted: BTreeSet<&[u8]> = revoked.iter().map(|revoked| revoked.serial.as_slice()).collect();
        if before
            .as_ref()
            .is_some_and(|before| before.serials.iter().map(Vec::as_slice).collect::<BTreeSet<_>>() == wanted)
        {
            return Ok(false);
        }
        let number = now.saturating_sub(CLOCK_SKEW).max(before.map_or(0, |before| before.number.saturating_add(1)));
        replace(&self.crl, &ca.revocation_list(revoked, number)?).map(|()| true)
    }
}

/// What a list says.
struct Listed {
    number: UnixSeconds,
    serials: BTreeSet<Vec<u8>>,
}

impl Listed {
    fn read(pem: &str) -> Option<Self> {
        let list: CertificateList = CertificateList::from_pem(pem).ok()?;
        let list = list.tbs_cert_list;
        let serials = list.revoked_certificates.unwrap_or_default();
        let serials = serials.iter().map(|revoked| revoked.serial_number.as_bytes().to_vec()).collect();
        Some(Self { number: list.this_update.to_unix_duration().as_secs(), serials })
    }
}

fn read(path: &Path) -> Result<Option<String>, AccessError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| AccessError::Io { path: path.to_owned(), source }),
    }
}

/// In one step, with owner, group and mode of what was there: the broker may run under another account.
fn replace(path: &Path, content: &str) -> Result<(), AccessError> {
    let write = || {
        let unfinished = path.with_extension("unfinished");
        let there = fs::metadata(path)?;
        fs::write(&unfinished, content)?;
        // Root alone gives files away; whoever else has what he can write, and perhaps the group.
        if chown(&unfinished, Some(there.uid()), Some(there.gid())).is_err() {
            drop(chown(&unfinished, None, Some(there.gid())));
        }
        fs::set_permissions(&unfinished, there.permissions())?;
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(|source| AccessError::Io { path: path.to_owned(), source })
}

/// Keeps the broker's files as the store has it, and has the broker read them again: at once after `changed`. Begins with a
/// look of its own unless `known` is what stands there.
pub async fn keep(
    access: Access,
    mut known: Option<ShutOut>,
    store: Store,
    clock: fn() -> UnixSeconds,
    changed: Arc<Notify>,
    reload: Arc<Notify>,
) {
    let access = Arc::new(access);
    loop {
        let (this, before) = (Arc::clone(&access), known.clone());
        match store.off_thread(move |store| this.catch_up(store, before.as_ref(), clock())).await {
            Ok((shut_out, changed)) => {
                known = Some(shut_out);
                if changed {
                    reload.notify_one();
                }
            }
            Err(error) => {
                tracing::error!("the broker does not know yet who is shut out: {error}");
                if access.has_news() {
                    reload.notify_one();
                }
            }
        }
        drop(timeout(LOOK_AGAIN, changed.notified()).await);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};

    use super::*;
    use crate::certificates::Kind;

    const NOW: u64 = 1_795_000_000;

    fn access(dir: &Path) -> Access {
        let [acl, crl] = ["acl", "devices.crl"].map(|name| dir.join(name));
        let ca = BrokerCa::make(Kind::Devices, NOW).unwrap().0;
        fs::write(&crl, ca.revocation_list(&[], NOW - CLOCK_SKEW).unwrap()).unwrap();
        fs::write(&acl, "pattern read cs/1/keys/+\n").unwrap();
        Access { acl, crl, ca: Some(ca), news: AtomicBool::default() }
    }

    fn shut_out(devices: &[u8]) -> ShutOut {
        ShutOut {
            devices: devices.iter().map(|byte| DeviceId([*byte; 32])).collect(),
            certificates: devices.iter().map(|byte| Revoked { serial: vec![*byte; 16], since: NOW }).collect(),
        }
    }

    #[test]
    fn who_is_revoked_stands_in_both_files_until_the_revocation_is_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        assert!(access.update(&shut_out(&[1, 2]), NOW).unwrap());
        assert!(!access.update(&shut_out(&[1, 2]), NOW + 1).unwrap(), "nothing to read again");
        let acl = fs::read_to_string(&access.acl).unwrap();
        assert!(acl.starts_with("pattern read cs/1/keys/+\n"), "{acl}");
        assert!(acl.ends_with(&format!(
            "user {0}\ntopic deny #\nuser {1}\ntopic deny #\n",
            DeviceId([1; 32]),
            DeviceId([2; 32])
        )));
        let listed = Listed::read(&fs::read_to_string(&access.crl).unwrap()).unwrap();
        assert_eq!(listed.serials, BTreeSet::from([vec![1; 16], vec![2; 16]]));

        assert!(access.update(&shut_out(&[]), NOW).unwrap());
        let lifted = Listed::read(&fs::read_to_string(&access.crl).unwrap()).unwrap();
        assert!(lifted.serials.is_empty() && lifted.number > listed.number, "OpenSSL takes the later list");
        assert!(fs::read_to_string(&access.acl).unwrap().ends_with(MARK));
        CertificateRevocationListDer::from_pem_file(&access.crl).unwrap();
    }

    #[test]
    fn a_broker_without_these_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        fs::remove_file(&access.acl).unwrap();
        fs::remove_file(&access.crl).unwrap();
        assert!(!access.update(&shut_out(&[1]), NOW).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn rules_that_are_written_are_read_though_the_list_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        fs::remove_file(&access.crl).unwrap();
        fs::create_dir(&access.crl).unwrap();
        for _ in 0..2 {
            assert!(matches!(access.update(&shut_out(&[1]), NOW), Err(AccessError::Io { .. })));
            assert!(fs::read_to_string(&access.acl).unwrap().contains("topic deny #"));
        }
        assert!(access.has_news(), "the broker is to be told");
        assert!(!access.has_news(), "once");
    }

    #[test]
    fn a_broker_that_reads_by_its_group_goes_on_reading() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let of = |path| fs::metadata(path).map(|file| (file.uid(), file.gid(), file.mode() & 0o777)).unwrap();
        // Who is not root has no such group to give.
        if chown(&access.acl, Some(61_001), Some(61_002)).is_err() {
            return;
        }
        fs::set_permissions(&access.acl, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(access.update(&shut_out(&[1]), NOW).unwrap());
        assert_eq!(of(&access.acl), (61_001, 61_002, 0o640));
    }

    #[test]
    fn a_damaged_list_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        fs::write(&access.crl, "no list").unwrap();
        assert!(access.update(&shut_out(&[]), NOW).unwrap());
        assert!(Listed::read(&fs::read_to_string(&access.crl).unwrap()).is_some());
    }
}
