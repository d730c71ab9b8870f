//! Commands that ask a running service: what they print and the exit codes they end with. The service is the program's
//! own HTTP API over a store filled by hand.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};

use appraisal::{
    Appraisal, Cause, Code, DeviceState, EkClass, MeasuredFile, Verdict, freshness::Last, state::BootState,
};
use evidence::{
    claims::{DeviceId, Why},
    result::{Acknowledged, TrustVector},
    tpm::{AkPublic, Counters, P256Point},
};
use reference_values::ReferenceIndex;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use verifier::{
    http::{App, Order, Readiness, Token, serve},
    store::{Accepted, Committed, NewRegistration, Store},
};

const NOW: u64 = 1_800_000_000;
const DIGEST: [u8; 32] = [0xAA; 32];

struct Service {
    folder: tempfile::TempDir,
    runtime: Runtime,
    url: String,
    store: Store,
    requests: mpsc::Receiver<Order>,
}

fn id(first: u8, last: u8) -> DeviceId {
    let mut id = [first; 32];
    id[31] = last;
    DeviceId(id)
}

fn register(store: &Store, device: DeviceId) {
    let new = NewRegistration {
        device,
        ak: AkPublic::from_point(P256Point { x: device.0, y: [7; 32] }),
        eks: vec![device.0],
        ek_class: EkClass::Software,
        manufacturer: "id:00001014".into(),
        product: None,
        now: NOW,
    };
    store.register(new).unwrap();
}

fn evidence(device: DeviceId, clock: u64, after: Option<u64>, verdict: Verdict) -> Accepted {
    let last = |clock| Last { counters: Counters { reset: 1, restart: 0, clock }, evidence: [clock as u8; 32] };
    let cause = Cause {
        code: Code::RuntimeUnknownExecutable,
        detail: "/tmp/x\x1b[2J sha256:aa".into(),
        first_seen: NOW,
        last_seen: NOW,
    };
    let state = DeviceState {
        last: last(clock),
        boot: BootState::new(&last(clock).counters),
        verdict,
        vector: TrustVector::default(),
        causes: if verdict == Verdict::Affirmed { vec![] } else { vec![cause] },
        tolerated: vec![],
        judged: NOW,
        expires: NOW + 600,
        last_check: Why::Request,
        release: Some("1.0".into()),
        references: [0; 32],
        product: None,
        firmware_version: 7,
        attester_version: "0.1.0".into(),
        since: 0,
        not_older_than: NOW,
        cleared: None,
        compromised: Vec::new(),
    };
    let file = MeasuredFile { digest: DIGEST, path: "/tmp/x".into(), kind: "executable".into() };
    let appraisal = Appraisal {
        state,
        new_files: vec![file],
        new_boot: true,
        acknowledged: Acknowledged::default(),
        tolerated: vec![],
        closed: None,
    };
    Accepted { device, expected: after.map(last), appraisal, evidence: vec![1], result: vec![2] }
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(folder.path().join("api-token"), format!("{token}\n")).unwrap();
        let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
        let (sender, requests) = mpsc::channel(4);
        let app = App {
            store: store.clone(),
            token: Arc::new(Token::new(token).unwrap()),
            metrics: Arc::default(),
            ready: Arc::new(Readiness::default()),
            references: watch::channel(Arc::new(ReferenceIndex::default())).1,
            orders: sender,
            keys: watch::channel(None).1,
            clock: || NOW + 10,
        };
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, app));
        Self { folder, runtime, url, store, requests }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&self.url, self.folder.path().join("api-token"), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        let output = self.run(arguments);
        let failed = output.stdout.is_empty() || output.status.code() == Some(0);
        assert!(failed || arguments[0] == "check", "{output:?}");
        output.status.code().unwrap()
    }
}

fn run(url: &str, token: PathBuf, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifier"));
    command
        .args(arguments)
        .env("COUNTERSIGN_VERIFIER__HTTP__URL", url)
        .env("COUNTERSIGN_VERIFIER__HTTP__TOKEN_FILE", token);
    command.output().unwrap()
}

#[test]
fn devices_and_one_of_them_are_shown() {
    let service = Service::start();
    let device = id(0x11, 1);
    register(&service.store, device);
    assert_eq!(
        service.store.commit(vec![evidence(device, 1, None, Verdict::Contraindicated)]).unwrap(),
        [Committed::Done]
    );
    let list = service.json(&["devices"]);
    assert_eq!((&list["total"], &list["devices"][0]["id"]), (&1.into(), &device.to_string().into()));
    let shown = service.json(&["device", &device.to_string()[..8]]);
    assert_eq!(shown["verdict"], "contraindicated");
    let digest = "aa".repeat(32);
    for (arguments, found) in [
        (["--running", digest.as_str()], 1),
        (["--running", &"bb".repeat(32)], 0),
        (["--verdict", "affirmed"], 0),
        (["--cause", "runtime.unknown-executable"], 1),
    ] {
        let list = service.json(&[&["devices"][..], &arguments].concat());
        assert_eq!(list["total"], found, "{arguments:?}");
    }
    for command in ["device", "devices", "history"] {
        let arguments: &[&str] = if command == "devices" { &["devices"] } else { &[command, &device.to_string()] };
        let text = String::from_utf8(service.run(arguments).stdout).unwrap();
        assert!(text.contains("contraindicated") && text.contains("runtime.unknown-executable"), "{text}");
        assert!(!text.contains('\x1b'), "a device's words are not obeyed by the terminal: {text:?}");
    }
}

#[test]
fn exit_codes_are_as_documented() {
    let service = Service::start();
    register(&service.store, id(0x22, 1));
    register(&service.store, id(0x22, 2));
    for (arguments, code) in [
        (&["device", "22222222"][..], 2),
        (&["device", "33333333"], 2),
        (&["device", "2222"], 2),
        (&["device", "../../etc/passwd"], 2),
        (&["history", "33333333"], 2),
        (&["approve", "33333333", "--product", "p"], 2),
        (&["revoke", "22222222", "--why", "x"], 2),
        (&["revoke", "22222222"], 2),
        (&["check", "33333333"], 2),
        (&["devices", "--verdict", "good"], 2),
        (&["devices", "--colour"], 2),
        (&["devices"], 0),
    ] {
        assert_eq!(service.code(arguments), code, "{arguments:?}");
    }
}

#[test]
fn approve_and_revoke_are_in_the_history() {
    let service = Service::start();
    let device = id(0x33, 1).to_string();
    register(&service.store, id(0x33, 1));
    assert_eq!(service.json(&["approve", &device, "--product", "acme/router"])["product"], "acme/router");
    assert_eq!(service.json(&["revoke", &device, "--why", "stolen"])["verdict"], "contraindicated");
    let history = service.json(&["history", &device]);
    let what: Vec<&str> =
        history["history"].as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["enrolled", "approved", "revoked"]);
}

#[test]
fn the_verdict_is_the_exit_code_of_check_alone() {
    let service = Service::start();
    let device = id(0x44, 1);
    register(&service.store, device);
    let (store, mut requests) = (service.store.clone(), service.requests);
    service.runtime.spawn(async move {
        let mut last = None;
        for (clock, verdict) in [(1, Verdict::Affirmed), (2, Verdict::Contraindicated), (3, Verdict::Warning)] {
            requests.recv().await.unwrap();
            store.commit_async(vec![evidence(device, clock, last, verdict)]).await.unwrap();
            last = Some(clock);
        }
        // Asked once more, it stays silent.
        requests.recv().await
    });
    let token = service.folder.path().join("api-token");
    let code = |arguments: &[&str]| run(&service.url, token.clone(), arguments).status.code();
    let device = device.to_string();
    for expected in [0, 4, 3] {
        assert_eq!(code(&["check", &device, "--wait", "30"]), Some(expected));
    }
    assert_eq!(code(&["check", &device, "--wait", "1"]), Some(5), "no answer, no verdict");
    assert_eq!(code(&["device", &device]), Some(0));
}

#[test]
fn what_cannot_be_reached_is_named() {
    let service = Service::start();
    let wrong = service.folder.path().join("wrong");
    std::fs::write(&wrong, "f".repeat(32)).unwrap();
    let refused = run(&service.url, wrong, &["devices"]);
    assert_eq!(refused.status.code(), Some(1));
    let absent = run(&service.url, service.folder.path().join("absent"), &["devices"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8(absent.stderr).unwrap().contains("absent"));
    let nobody = run("http://127.0.0.1:1", service.folder.path().join("api-token"), &["devices"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(said.contains("http://127.0.0.1:1") && said.contains("verifier serve"), "{said}");
}

#[test]
fn every_command_explains_itself() {
    for command in ["init", "serve", "devices", "device", "history", "approve", "revoke", "check", "inspect", "roots"] {
        let output = Command::new(env!("CARGO_BIN_EXE_verifier")).args([command, "--help"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("Usage: verifier"), "{command}");
    }
    let completions = Command::new(env!("CARGO_BIN_EXE_verifier")).args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8(completions.stdout).unwrap().contains("inspect"));
    let version = Command::new(env!("CARGO_BIN_EXE_verifier")).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("verifier "));
}
