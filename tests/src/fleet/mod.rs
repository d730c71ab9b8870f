//! A fleet of software devices against a running verifier, over its broker: in go a [`Place`] and [`Orders`], out come
//! [`Book`]s of everything that each device sent and got. Their keys are software, certified by a CA of the simulation;
//! everything else is the real protocol, and they retry, reconnect and forget as a real device does: what they keep for a
//! verifier are log positions, never signed evidence.

mod books;
mod conversation;
mod device;
mod enrolment;
mod link;
mod place;

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use evidence::claims::DeviceId;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub use books::{Book, Ledger, Received, SentEvidence, Traffic};
pub use device::{Orders, PROGRAMS, program_digest, program_path};
pub use place::Place;

use device::Device;

/// Devices that live in tasks of their own until this value is dropped.
pub struct Fleet {
    orders: watch::Sender<Orders>,
    ledgers: Vec<Ledger>,
    news: watch::Receiver<u64>,
    failed: Vec<String>,
    lives: JoinSet<()>,
}

impl Fleet {
    /// Enrols `count` devices, at most `at_a_time` at once. They are connected and follow `orders` from then on.
    ///
    /// # Errors
    /// Where the system has no randomness. Devices that could not enrol are in [`Self::failed`].
    pub async fn enrol(place: Place, count: usize, at_a_time: usize, orders: Orders) -> Result<Self> {
        let place = Arc::new(place);
        let turn = Arc::new(Semaphore::new(at_a_time));
        let mut enrolling = JoinSet::new();
        let (tell, news) = watch::channel(0);
        for number in 0..count {
            let (place, turn, tell) = (Arc::clone(&place), Arc::clone(&turn), tell.clone());
            enrolling.spawn(async move {
                let _turn = turn.acquire().await;
                Device::enrol(place, number, tell).await
            });
        }
        let mut fleet = Self {
            orders: watch::channel(orders).0,
            ledgers: Vec::new(),
            news,
            failed: Vec::new(),
            lives: JoinSet::new(),
        };
        while let Some(enrolled) = enrolling.join_next().await {
            match enrolled? {
                Ok(device) => {
                    fleet.ledgers.push(device.ledger());
                    fleet.lives.spawn(device.live(fleet.orders.subscribe()));
                }
                Err(error) => fleet.failed.push(format!("{error:#}")),
            }
        }
        Ok(fleet)
    }

    /// Devices that could not enrol, and why.
    #[must_use]
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Ids of all devices.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceId> {
        self.ledgers.iter().map(|ledger| ledger.device()).collect()
    }

    /// Tells all devices something else.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// Copies of all books.
    #[must_use]
    pub fn books(&self) -> Vec<Book> {
        self.ledgers.iter().map(Ledger::copy).collect()
    }

    /// Waits until `done` holds of every device's book.
    ///
    /// # Errors
    /// Where it does not hold of all in time.
    pub async fn until(&self, what: &str, patience: Duration, done: impl Fn(&Book) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut news = self.news.clone();
        // What holds of a book keeps being asked only of those of which it does not hold yet.
        let mut waiting: Vec<&Ledger> = self.ledgers.iter().collect();
        loop {
            news.borrow_and_update();
            waiting.retain(|ledger| !ledger.read(&done));
            let Some(first) = waiting.first() else { return Ok(()) };
            if timeout_at(deadline, news.changed()).await.is_err() {
                let last = first.read(Book::summary);
                bail!(
                    "{what}: not within {patience:?} for {} of {} devices; {last}",
                    waiting.len(),
                    self.ledgers.len()
                );
            }
        }
    }

    /// Has every device say goodbye, and returns the books.
    pub async fn end(mut self) -> Vec<Book> {
        self.orders.send_modify(|orders| orders.stop = true);
        while self.lives.join_next().await.is_some() {}
        self.books()
    }
}
