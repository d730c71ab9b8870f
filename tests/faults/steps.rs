//! A verifier that dies between any two steps of taking up a message: between it and its broker lies a relay that sees
//! each step from outside, and holds back what must not be heard of.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use devices::{
    fleet::{Book, Orders},
    site::{Site, eventually},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{Done, PATIENCE, lineage};

/// What else comes to the verifier while one device attests is less than this, evidence is more.
const EVIDENCE: usize = 400;

/// Where a verifier is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Evidence is at the door.
    Arriving,
    /// It has been handed over, and nothing was said of it.
    Received,
    /// It was judged and made durable; the acknowledgement is on its way to the broker, and never arrives.
    Acknowledging,
    /// The broker has the acknowledgement, and the answer never arrives.
    Answering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToVerifier,
    ToBroker,
}

#[derive(Debug, Default)]
struct Watch {
    armed: Option<Step>,
    /// Bytes to the verifier, by connection.
    received: BTreeMap<usize, usize>,
    /// The connection that evidence has come on.
    receiving: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Pass,
    PassAndTell,
    HoldAndTell,
}

impl Watch {
    fn sees(&mut self, connection: usize, way: Way, bytes: usize) -> What {
        let Some(step) = self.armed else { return What::Pass };
        if way == Way::ToVerifier {
            let received = self.received.entry(connection).or_default();
            *received += bytes;
            self.receiving = self.receiving.or((*received > EVIDENCE).then_some(connection));
        }
        let Some(receiving) = self.receiving else { return What::Pass };
        let now = match (step, way) {
            (Step::Arriving | Step::Received, Way::ToVerifier) | (Step::Acknowledging, Way::ToBroker) => {
                receiving == connection
            }
            (Step::Answering, Way::ToBroker) => receiving != connection,
            _ => false,
        };
        if !now {
            return What::Pass;
        }
        self.armed = None;
        if step == Step::Received { What::PassAndTell } else { What::HoldAndTell }
    }
}

/// The relay.
struct Tap {
    port: u16,
    watch: Arc<Mutex<Watch>>,
    told: mpsc::UnboundedReceiver<()>,
}

impl Tap {
    async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own = listener.local_addr()?.port();
        let watch = Arc::new(Mutex::new(Watch::default()));
        let (tell, told) = mpsc::unbounded_channel();
        let (shared, count) = (Arc::clone(&watch), AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((verifier, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { continue };
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let (from_verifier, to_verifier) = verifier.into_split();
                let (from_broker, to_broker) = broker.into_split();
                for (way, from, to) in [
                    (Way::ToBroker, Box::new(from_verifier) as Source, Box::new(to_broker) as Sink),
                    (Way::ToVerifier, Box::new(from_broker), Box::new(to_verifier)),
                ] {
                    let (watch, tell) = (Arc::clone(&shared), tell.clone());
                    tokio::spawn(pump(connection, way, from, to, watch, tell));
                }
            }
        });
        Ok(Self { port: own, watch, told })
    }

    fn arm(&self, step: Step) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Watch { armed: Some(step), ..Watch::default() };
    }
}

type Source = Box<dyn AsyncRead + Send + Unpin>;
type Sink = Box<dyn AsyncWrite + Send + Unpin>;

async fn pump(
    connection: usize,
    way: Way,
    mut from: Source,
    mut to: Sink,
    watch: Arc<Mutex<Watch>>,
    tell: mpsc::UnboundedSender<()>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        let what = watch.lock().unwrap_or_else(PoisonError::into_inner).sees(connection, way, bytes);
        if what == What::HoldAndTell {
            // A test that has ended listens no more.
            tell.send(()).ok();
            // What follows is held back too, until the verifier is gone.
            while let Ok(1..) = from.read(&mut buffer).await {}
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
        if what == What::PassAndTell {
            tell.send(()).ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_verifier_killed_between_any_two_steps_loses_nothing_and_judges_nothing_twice() -> Done {
    // No epoch opens meanwhile, so that nothing comes between.
    let mut site = Site::lay_out(3600)?;
    let mut tap = Tap::to(site.ports().services).await?;
    site.reach_broker_through(tap.port)?;
    site.start_brokers()?;
    site.serve()?;
    let fleet = site.affirmed_fleet(site.place()?, 1, Orders::default()).await?;
    let steps = [Step::Arriving, Step::Received, Step::Acknowledging, Step::Answering];
    for (number, step) in (1..).zip(steps.into_iter().cycle().take(3 * steps.len())) {
        let programs = number + 1;
        tap.arm(step);
        fleet.order(|orders| (orders.programs, orders.rounds) = (programs, orders.rounds + 1));
        timeout(PATIENCE, tap.told.recv()).await.with_context(|| format!("{step:?} is not seen"))?;
        let sent = fleet.books().first().and_then(|book| book.evidence.last()).context("evidence")?.digest;
        site.kill_verifier();
        site.serve()?;
        let all = u64::from(programs);
        let done = move |book: &Book| book.entries == all && book.all_acknowledged();
        fleet.until(&format!("{step:?}: all is acknowledged"), PATIENCE, done).await?;
        if step == Step::Acknowledging {
            // The broker delivers it once more, and it is told what was said of it.
            let answered = move |book: &Book| book.results.iter().any(|result| result.evidence == sent);
            fleet.until("the result that was made before", PATIENCE, answered).await?;
            // The result may have left before the end; the evidence comes once more in any case.
            eventually("it is told as known", || Ok(site.counter(&["freshness.duplicate"])? >= 1.0))?;
        }
    }
    lineage::holds(&site, &fleet.end().await)
}
