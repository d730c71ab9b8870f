//! `verifier serve`: in goes the configuration, out comes the running service, until a signal ends it. SIGHUP reads
//! reference values, trust, policy and roots again; SIGTERM and SIGINT end it in order.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use appraisal::{ChallengeKey, UnixSeconds};
use data_encoding::HEXLOWER;
use evidence::topic::Name;
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

use crate::{
    broker::{BrokerError, Mosquitto},
    broker_access::{self, Access},
    certificates::CertificateError,
    clock::ClockGuard,
    config::Config,
    enrol,
    epochs::Calendar,
    http::{self, App, Readiness, Token, TokenError},
    ingest::{self, Rates, Verifier},
    issuer::Issuer,
    keys::{KeyError, Keyring},
    limits::{MAX_PUBLISHING, MAX_QUEUED_CHECKS},
    metrics::Metrics,
    mqtt::{Link, LinkError},
    reappraisal, recheck,
    references::{Desk, Rules, RulesError},
    store::{Store, StoreError},
};

/// Name of the secret that challenges are made with.
const CHALLENGE_SECRET: &str = "challenge";
/// Name of the secret that the broker's share is named by.
const SHARE_SECRET: &str = "share";
/// Parts that must be up.
const RECEIVING: &str = "broker-receiving";
const ANSWERING: &str = "broker-answering";

/// The service cannot start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The broker's CA.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// References, policy, trust, roots.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// API token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The broker as a child.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Connections to the broker.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data folder.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data folder is taken.
    #[error("another verifier runs on the data folder {}: end that one, or give this one a folder of its own", .0.display())]
    Running(PathBuf),
    /// HTTP.
    #[error("cannot listen on {address} for HTTP: {source}; set another `listen` under [http]")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

impl ServeError {
    /// Whether the configuration is at fault (exit code 2), rather than the machine.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::Key(error) => !matches!(error, KeyError::Store(_)),
            Self::Certificate(_) | Self::Token(_) | Self::Link(_) => true,
            Self::Rules(error) => !matches!(error, RulesError::Store(_)),
            Self::Broker(error) => matches!(error, BrokerError::NoConfiguration(_)),
            _ => false,
        }
    }
}

/// Seconds since 1970, by the machine's clock.
#[must_use]
pub fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A service that is up.
pub struct Service {
    config: Config,
    store: Store,
    http: SocketAddr,
    desk: Arc<Desk>,
    period: watch::Sender<u32>,
    stop: watch::Sender<bool>,
    ready: Arc<Readiness>,
    connections: Vec<(&'static str, watch::Receiver<bool>)>,
    tasks: JoinSet<()>,
    brokers: JoinSet<()>,
    _lock: File,
}

/// Serves until a signal ends it. With `accept_clock`, the system's clock counts although a later time was seen.
///
/// # Errors
/// [`ServeError`] where it cannot start.
pub async fn serve(config: Config, accept_clock: bool) -> Result<(), ServeError> {
    let listen = |kind| signal(kind).map_err(ServeError::Signals);
    let signals = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
    let service = Service::start_by(config, accept_clock).await?;
    service.run(signals).await;
    Ok(())
}

impl Service {
    /// Starts everything; the broker may still be out of reach when this returns.
    ///
    /// # Errors
    /// [`ServeError`] names what is missing.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        Self::start_by(config, false).await
    }

    /// [`Service::start`]; with `accept_clock`, an operator says that the system's clock is right.
    ///
    /// # Errors
    /// As there.
    pub async fn start_by(config: Config, accept_clock: bool) -> Result<Self, ServeError> {
        // Whoever links another provider beside ring would have to choose; TLS here names ring itself.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (client_id, lock) = client_id(&config)?;
        let link = Link::new(&config.broker, client_id)?;
        let token = Arc::new(Token::read(&config.http.token_file)?);
        let store = Store::open(&config.store())?;
        prepare(&store, accept_clock)?;
        let metrics = Arc::new(Metrics::new());
        let ready = Arc::new(Readiness::waiting_for(&[RECEIVING, ANSWERING]));
        let desk = Arc::new(Desk::open(&config, &store, Arc::clone(&ready), now)?);
        let period = watch::Sender::new(config.epoch_seconds);
        let sources = Sources { rules: desk.subscribe(), period: period.subscribe() };
        let verifier = Arc::new(verifier(&config, &store, &metrics, sources, Arc::clone(&ready))?);
        let brokers = if config.broker.spawn {
            vec![Mosquitto::find(&config.broker.mosquitto)?, Mosquitto::find(&config.broker.enrolment)?]
        } else {
            Vec::new()
        };
        let access = Access::from_config(&config.broker)?;
        // Before the broker reads them. Where that fails, it is tried and told again.
        let shut_out = access.catch_up(&store, None, now()).ok().map(|(shut_out, _)| shut_out);
        let (listener, http) = bind(&config).await?;

        let stop = watch::Sender::new(false);
        let (access_changed, read_again) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let brokers = supervise(brokers, &config, &stop, &read_again);
        let (inbox, receiving) = link.receive(filters(&config.name, &*store.secret(SHARE_SECRET)?));
        let publisher = link.publish();
        let connections = vec![(RECEIVING, receiving), (ANSWERING, publisher.connected())];
        let (orders, ordered) = mpsc::channel(MAX_QUEUED_CHECKS);
        let app = App {
            access_changed: Arc::clone(&access_changed),
            store: store.clone(),
            token,
            metrics,
            ready: Arc::clone(&ready),
            desk: Arc::clone(&desk),
            publishing: Arc::new(Semaphore::new(MAX_PUBLISHING)),
            orders: orders.clone(),
            keys: verifier.keys.subscribe(),
            clock: now,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(reappraisal::run(Arc::clone(&verifier)));
        tasks.spawn(ingest::run(verifier, inbox, publisher, ordered));
        tasks.spawn(broker_access::keep(access, shut_out, store.clone(), now, access_changed, read_again));
        tasks.spawn(recheck::run(store.clone(), desk.subscribe(), orders, now));
        tasks.spawn(Arc::clone(&desk).watch());
        tasks.spawn(async move {
            if let Err(error) = http::serve(listener, app).await {
                tracing::error!("the HTTP API has ended: {error}");
            }
        });
        Ok(Self { config, store, http, desk, period, stop, ready, connections, tasks, brokers, _lock: lock })
    }

    /// Where the HTTP API listens.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    async fn run(mut self, [mut terminate, mut interrupt, mut hangup]: [Signal; 3]) {
        let told = self.watch_connections();
        tokio::pin!(told);
        let mut all_up = false;
        loop {
            tokio::select! {
                () = &mut told, if !all_up => {
                    all_up = true;
                    self.tell();
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.reload().await,
                // A part that ends by itself has said why; the others go on no better without it.
                Some(_) = self.tasks.join_next() => {
                    tracing::error!("a part of the service has ended; ending the rest");
                    break;
                }
            }
        }
        tracing::info!("ending");
        self.end().await;
    }

    /// Keeps readiness as the connections are; the future returned ends when all were up for the first time.
    fn watch_connections(&mut self) -> impl Future<Output = ()> + use<> {
        let mut first = JoinSet::new();
        for (part, mut connected) in self.connections.drain(..) {
            let mut once = connected.clone();
            first.spawn(async move { once.wait_for(|up| *up).await.is_ok() });
            let ready = Arc::clone(&self.ready);
            self.tasks.spawn(async move {
                loop {
                    ready.set(part, *connected.borrow_and_update());
                    if connected.changed().await.is_err() {
                        // Its task has ended with the service.
                        return std::future::pending().await;
                    }
                }
            });
        }
        async move { drop(first.join_all().await) }
    }

    /// On stdout, for whoever has started it and waits.
    fn tell(&self) {
        let crate::config::Broker { host, port, .. } = &self.config.broker;
        let line = format!("ready: verifier {}, http://{}, broker {host}:{port}", self.config.name, self.http);
        tracing::info!("{line}");
        // Nobody may be reading any more.
        drop(writeln!(io::stdout(), "{line}"));
    }

    /// Reads the rules again, and how long an epoch lasts; what cannot be used leaves what is in force.
    pub async fn reload(&self) {
        let period = match Config::load(self.config.file.as_deref(), std::env::vars_os()) {
            Ok(config) => config.epoch_seconds,
            Err(error) => return tracing::error!("not reloaded, what was in force stays: {error}"),
        };
        let config = Config { epoch_seconds: period, ..self.config.clone() };
        let desk = Arc::clone(&self.desk);
        // What is wrong has been told.
        if self.store.off_thread(move |_| desk.reload(&config)).await.is_ok() {
            self.period.send_replace(period);
        }
    }

    /// Ends everything, the brokers last.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        self.stop.send_replace(true);
        while self.brokers.join_next().await.is_some() {}
    }
}

/// The first is the devices': only its rules change.
fn supervise(
    brokers: Vec<Mosquitto>,
    config: &Config,
    stop: &watch::Sender<bool>,
    read_again: &Arc<Notify>,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for (index, mosquitto) in brokers.into_iter().enumerate() {
        let (devices, stop) = (index == 0, stop.subscribe());
        let reload = if devices { Arc::clone(read_again) } else { Arc::default() };
        let place = (config.broker.host.clone(), config.broker.port);
        running.spawn(async move {
            if !devices {
                listening(&place).await;
            }
            mosquitto.supervise(stop, reload).await;
        });
    }
    running
}

/// Waits a moment for the devices' broker: where the first try of a bridge fails, its second comes seconds later.
async fn listening((host, port): &(String, u16)) {
    for _ in 0..100 {
        if tokio::net::TcpStream::connect((host.as_str(), *port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What must be right before anything is judged.
fn prepare(store: &Store, accept_clock: bool) -> Result<(), StoreError> {
    if accept_clock {
        tracing::warn!("the system's clock is taken for right, on an operator's word");
        store.accept_clock(now())?;
    }
    store.restored_at()?.map_or(Ok(()), |restored| store.void_verdicts(restored))
}

/// What a reload changes.
struct Sources {
    rules: watch::Receiver<Arc<Rules>>,
    period: watch::Receiver<u32>,
}

fn verifier(
    config: &Config,
    store: &Store,
    metrics: &Arc<Metrics>,
    sources: Sources,
    ready: Arc<Readiness>,
) -> Result<Verifier, ServeError> {
    let Sources { rules, period } = sources;
    let keys = Keyring::open(store, &config.key, now())?;
    let calendar = Calendar::open(store, keys.root())?;
    let guard = ClockGuard::new(now(), calendar.latest());
    Ok(Verifier {
        name: config.name.clone(),
        keys,
        calendar,
        period,
        guard,
        challenges: ChallengeKey::new(&*store.secret(CHALLENGE_SECRET)?),
        store: store.clone(),
        metrics: Arc::clone(metrics),
        rules,
        issuer: Issuer::from_config(&config.broker)?,
        admit: config.broker.admit,
        clock: now,
        enrolment: enrol::Desk::default(),
        rates: Rates::default(),
        ready,
    })
}

/// Shared among the processes of one verifier: the broker gives each message to one of them.
fn filters(name: &Name, share: &[u8; 32]) -> Vec<String> {
    // Brokers let anybody join a share and check only at delivery who may read: what a device that guessed the share's name
    // may not read would be lost.
    let share = HEXLOWER.encode(share.split_at(16).0);
    ["cs/1/+/up/#", "cs/1/enrol/+/up"].map(|filter| format!("$share/{name}-{share}/{filter}")).to_vec()
}

async fn bind(config: &Config) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Http { address: config.http.listen, source };
    let listener = TcpListener::bind(config.http.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let data = |source| ServeError::Data { path: config.data_dir.clone(), source };
    config.publish_http_address(address).map_err(data)?;
    Ok((listener, address))
}

/// The client id: stable, so that the broker keeps a session, and not to be guessed, for whoever connects with it ends
/// this program's connection. The lock on its file keeps a second program from using it.
fn client_id(config: &Config) -> Result<(String, File), ServeError> {
    let path = config.client_id_file();
    let failed = |source| ServeError::Data { path: config.data_dir.clone(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(failed)?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => ServeError::Running(config.data_dir.clone()),
        std::fs::TryLockError::Error(error) => failed(error),
    })?;
    let mut secret = String::new();
    file.read_to_string(&mut secret).map_err(failed)?;
    if secret.trim().len() < 32 {
        secret = new_secret(&mut file, &path).map_err(failed)?;
    }
    Ok((format!("{}-{}", config.name, secret.trim()), file))
}

fn new_secret(file: &mut File, path: &Path) -> io::Result<String> {
    let mut random = [0; 16];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other(format!("{}: no random numbers", path.display())))?;
    let secret = HEXLOWER.encode(&random);
    file.set_len(0)?;
    io::Seek::rewind(file)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    Ok(secret)
}
