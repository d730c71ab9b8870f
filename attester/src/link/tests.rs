//! The link against a real broker, and against one that does what mosquitto does not.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const TOPIC: &str = "cs/1/x/up/evidence";
/// Longest that a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn endpoint(port: u16) -> Endpoint {
    let options = options("test", "127.0.0.1", port, Transport::Tcp);
    Endpoint { options, filters: vec![TOPIC.to_owned()], place: format!("127.0.0.1:{port}"), turn: None }
}

fn open(port: u16) -> (Link, mpsc::Receiver<LinkEvent>) {
    let (events, happening) = mpsc::channel(16);
    (Link::open(endpoint(port), events, |event| event), happening)
}

async fn next(happening: &mut mpsc::Receiver<LinkEvent>) -> LinkEvent {
    timeout(PATIENCE, happening.recv()).await.expect("something happens").expect("the link runs")
}

async fn up(happening: &mut mpsc::Receiver<LinkEvent>) -> Up {
    match next(happening).await {
        LinkEvent::Up(up) => up,
        LinkEvent::Down(trouble, _) => panic!("{trouble}"),
        LinkEvent::Message { topic, .. } => panic!("a message on {topic}"),
    }
}

async fn down(happening: &mut mpsc::Receiver<LinkEvent>) -> (Trouble, Duration) {
    match next(happening).await {
        LinkEvent::Down(trouble, pause) => (trouble, pause),
        LinkEvent::Up(_) | LinkEvent::Message { .. } => panic!("it goes on"),
    }
}

async fn message(happening: &mut mpsc::Receiver<LinkEvent>) -> Vec<u8> {
    match next(happening).await {
        LinkEvent::Message { payload, .. } => payload,
        LinkEvent::Up(_) => panic!("connected twice"),
        LinkEvent::Down(trouble, _) => panic!("{trouble}"),
    }
}

fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A running mosquitto.
struct Mosquitto {
    port: u16,
    process: Child,
    dir: TempDir,
}

impl Mosquitto {
    fn start(port: u16, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n{more}\n");
        File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let program = Command::new("mosquitto").env("PATH", path).arg("-c").arg(config).stderr(Stdio::null()).spawn();
        Self { port, process: program.expect("mosquitto is installed (Debian: mosquitto)"), dir }
    }

    /// Ends it as a power cut does, and starts it again: it has forgotten everything.
    fn restart(mut self) -> Self {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let again = Self::start(self.port, "");
        assert_ne!(again.dir.path(), self.dir.path());
        again
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // Ended already where it was restarted.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The first connection to a broker that may still be starting.
async fn first_up(happening: &mut mpsc::Receiver<LinkEvent>) -> Up {
    loop {
        match next(happening).await {
            LinkEvent::Up(up) => return up,
            LinkEvent::Down(Trouble::Unreachable { .. }, _) => {}
            LinkEvent::Down(trouble, _) => panic!("{trouble}"),
            LinkEvent::Message { .. } => panic!("a message before the connection"),
        }
    }
}

#[tokio::test]
async fn a_broker_that_lost_the_session_is_subscribed_at_again() {
    let broker = Mosquitto::start(free_port(), "");
    let (_link, mut happening) = open(broker.port);
    let connection = first_up(&mut happening).await;
    connection.publish(&TOPIC, b"before".to_vec()).unwrap();
    assert_eq!(message(&mut happening).await, b"before");
    let _broker = broker.restart();
    down(&mut happening).await;
    let connection = first_up(&mut happening).await;
    connection.publish(&TOPIC, b"after".to_vec()).unwrap();
    assert_eq!(message(&mut happening).await, b"after");
}

#[tokio::test]
async fn a_message_that_the_broker_would_not_take_is_set_aside_and_others_go_through() {
    let broker = Mosquitto::start(free_port(), "max_packet_size 2000");
    let (_link, mut happening) = open(broker.port);
    let connection = first_up(&mut happening).await;
    assert!(connection.max_message <= 2000, "it is made to fit");
    let poison = connection.publish(&TOPIC, vec![0; 2000]).unwrap_err();
    assert!(poison.to_string().contains("2000"), "{poison}");
    for size in [1, 1900] {
        connection.publish(&TOPIC, vec![7; size]).unwrap();
        assert_eq!(message(&mut happening).await.len(), size, "on the same connection");
    }
}

/// A broker's side of one connection, in bytes.
struct Scripted(TcpStream);

impl Scripted {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("it connects").unwrap();
        let mut scripted = Self(stream);
        let (kind, connect) = scripted.packet().await;
        assert_eq!((kind, &connect[..7]), (0x10, &b"\0\x04MQTT\x05"[..]));
        assert_eq!(connect[7] & 2, 2, "clean start: nothing of an earlier connection counts");
        scripted.0.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        let (kind, subscribe) = scripted.packet().await;
        assert_eq!(kind, 0x82, "it subscribes each time");
        scripted.0.write_all(&[0x90, 4, subscribe[0], subscribe[1], 0, 1]).await.unwrap();
        scripted
    }

    async fn packet(&mut self) -> (u8, Vec<u8>) {
        let kind = self.0.read_u8().await.unwrap();
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.0.read_u8().await.unwrap();
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (kind, body)
    }
}

async fn scripted() -> (TcpListener, Link, mpsc::Receiver<LinkEvent>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (link, happening) = open(listener.local_addr().unwrap().port());
    (listener, link, happening)
}

#[tokio::test]
async fn a_packet_over_the_announced_size_ends_the_connection_before_it_is_read() {
    let (listener, _link, mut happening) = scripted().await;
    let mut broker = Scripted::accept(&listener).await;
    up(&mut happening).await;
    // A length of 256 MB, and nothing behind it.
    broker.0.write_all(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await.unwrap();
    let (trouble, pause) = down(&mut happening).await;
    assert!(matches!(trouble, Trouble::Broken { .. }) && pause >= FIRST_PAUSE / 2, "{trouble}");
    // Whoever goes on with that is left alone ever longer.
    let mut broker = Scripted::accept(&listener).await;
    up(&mut happening).await;
    broker.0.write_all(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await.unwrap();
    let (_, longer) = down(&mut happening).await;
    assert!(longer >= FIRST_PAUSE, "{longer:?}");
}

#[tokio::test]
async fn an_acknowledgement_from_another_connection_takes_nothing_with_it() {
    let (listener, _link, mut happening) = scripted().await;
    let mut broker = Scripted::accept(&listener).await;
    let connection = up(&mut happening).await;
    connection.publish(&TOPIC, b"evidence".to_vec()).unwrap();
    let (kind, publish) = broker.packet().await;
    assert_eq!(kind & 0xF0, 0x30);
    let at = 2 + TOPIC.len();
    let id = [publish[at], publish[at + 1]];
    drop(broker);
    down(&mut happening).await;
    let mut broker = Scripted::accept(&listener).await;
    let connection = up(&mut happening).await;
    // For what was sent before; here nothing is under way.
    broker.0.write_all(&[0x40, 2, id[0], id[1]]).await.unwrap();
    // Whether the library takes that for an error or for nothing: what is said again arrives.
    let connection = match timeout(Duration::from_millis(500), happening.recv()).await {
        Ok(Some(LinkEvent::Down(..))) => {
            broker = Scripted::accept(&listener).await;
            up(&mut happening).await
        }
        Ok(_) => panic!("nothing was sent to it"),
        Err(_) => connection,
    };
    connection.publish(&TOPIC, b"again".to_vec()).unwrap();
    let (_, publish) = timeout(PATIENCE, broker.packet()).await.unwrap();
    assert!(publish.ends_with(b"again"));
}

#[tokio::test]
async fn a_broker_that_uses_topic_aliases_unasked_is_left() {
    let (listener, _link, mut happening) = scripted().await;
    let mut broker = Scripted::accept(&listener).await;
    up(&mut happening).await;
    // PUBLISH, topic "a", property 0x23 (alias) 1.
    broker.0.write_all(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 1]).await.unwrap();
    let (trouble, _) = down(&mut happening).await;
    assert!(trouble.to_string().contains("alias"), "{trouble}");
}
