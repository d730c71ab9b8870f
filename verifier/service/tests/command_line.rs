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
    topic::Name,
    tpm::{AkPublic, Counters, P256Point},
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, mpsc, watch},
};
use verifier::{
    config::Config,
    http::{App, Order, Readiness, Token, serve},
    init::{Plan, init},
    references::Desk,
    store::{Accepted, Committed, Endorsement, NewRegistration, Store},
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

fn ak(device: DeviceId) -> AkPublic {
    AkPublic::from_point(P256Point { x: device.0, y: [7; 32] })
}

fn register(store: &Store, device: DeviceId) {
    let new = NewRegistration {
        device,
        ak: ak(device),
        eks: vec![device.0],
        ek_class: EkClass::Software,
        manufacturer: "id:00001014".into(),
        product: None,
        endorsement: Endorsement::default(),
        uncertified: false,
        generation: 1,
        ak_certificate: vec![1],
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
        information: Vec::new(),
        update: None,
        highest: None,
    };
    let file = MeasuredFile { digest: DIGEST, path: "/tmp/x".into(), kind: "executable".into() };
    let appraisal = Appraisal {
        state,
        new_files: vec![file],
        new_boot: true,
        new_boot_log: false,
        acknowledged: Acknowledged::default(),
        tolerated: vec![],
        closed: None,
    };
    let registered = (*ak(device).name_digest(), 1);
    let expected = after.map(last);
    Accepted {
        device,
        registered,
        expected,
        appraisal,
        boot_log: None,
        evidence: vec![1],
        result: vec![2],
        posture: [8; 32],
    }
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(folder.path().join("api-token"), format!("{token}\n")).unwrap();
        let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
        let (sender, requests) = mpsc::channel(4);
        let plan = Plan {
            dir: folder.path().join("v"),
            name: Name::new("v1").unwrap(),
            broker: ("localhost".to_owned(), 8883),
            enrolment_port: 8884,
            service_port: 8885,
            http: "127.0.0.1:0".parse().unwrap(),
            now: NOW,
        };
        let config = Config::load(Some(&init(&plan).unwrap().join("verifier.toml")), []).unwrap();
        let ready = Arc::new(Readiness::default());
        let app = App {
            access_changed: Arc::default(),
            store: store.clone(),
            token: Arc::new(Token::new(token).unwrap()),
            metrics: Arc::default(),
            desk: Arc::new(Desk::open(&config, &store, Arc::clone(&ready), || NOW).unwrap()),
            publishing: Arc::new(Semaphore::new(1)),
            ready,
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
    let commands = [
        "init",
        "serve",
        "devices",
        "device",
        "history",
        "approve",
        "revoke",
        "check",
        "label",
        "forget",
        "token",
        "keys",
        "store",
        "config",
        "inspect",
        "roots",
        "completions",
    ];
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_verifier")).args([command, "--help"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("Usage: verifier"), "{command}");
    }
    let completions = Command::new(env!("CARGO_BIN_EXE_verifier")).args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8(completions.stdout).unwrap().contains("inspect"));
    let version = Command::new(env!("CARGO_BIN_EXE_verifier")).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("verifier "));
}

#[test]
fn labels_are_set_shown_found_by_and_removed() {
    let service = Service::start();
    register(&service.store, id(0x55, 1));
    let device = id(0x55, 1).to_string();
    assert_eq!(service.json(&["label", &device, "site=Oslo 1", "rack=7"])["labels"]["site"], "Oslo 1");
    assert_eq!(service.json(&["label", &device[..8], "rack="])["labels"], serde_json::json!({ "site": "Oslo 1" }));
    let text = String::from_utf8(service.run(&["label", &device]).stdout).unwrap();
    assert_eq!(text, format!("{device}\tsite=Oslo 1\n"));
    assert_eq!(service.json(&["devices", "--label", "site=Oslo 1"])["total"], 1);
    assert_eq!(service.json(&["devices", "--label", "site=Oslo 2"])["total"], 0);
    let history = service.json(&["history", &device]);
    let last = history["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["note"], &last["who"]), (&"labelled".into(), &"rack=".into(), &"init".into()));
    for bad in [&["Site=x"][..], &["site"], &["a=1", "a=2"], &["a=\u{7}"], &[&format!("a={}", "x".repeat(129))]] {
        assert_eq!(service.code(&[&["label", &device][..], bad].concat()), 2, "{bad:?}");
    }
    assert_eq!(service.code(&["label", "99999999", "a=b"]), 2);
    assert_eq!(service.code(&["devices", "--label", "site"]), 2);
}

#[test]
fn a_device_is_forgotten_where_somebody_says_so() {
    let service = Service::start();
    let device = id(0x66, 1).to_string();
    register(&service.store, id(0x66, 1));
    // There is no terminal here.
    assert_eq!(service.code(&["forget", &device]), 2);
    assert_eq!(service.json(&["devices"])["total"], 1);
    assert_eq!(service.code(&["revoke", &device, "--why", "stolen"]), 0);
    assert_eq!(service.code(&["forget", &device, "--yes"]), 2, "it is shut out");
    assert_eq!(service.json(&["forget", &device, "--yes", "--and-unblock"])["forgotten"], true);
    assert_eq!(service.json(&["devices"])["total"], 0);
    assert_eq!(service.code(&["forget", &device, "--yes"]), 2, "unknown");
    let log = service.json(&["history"]);
    assert_eq!((&log["log"][0]["about"], &log["log"][0]["who"]), (&device.into(), &"init".into()));
}

#[test]
fn a_token_is_good_for_its_role_until_it_is_revoked() {
    let service = Service::start();
    register(&service.store, id(0x77, 1));
    let device = id(0x77, 1).to_string();
    let made = service.run(&["token", "create", "night-shift", "--role", "reader"]);
    assert_eq!(made.status.code(), Some(0));
    let file = service.folder.path().join("reader");
    std::fs::write(&file, &made.stdout).unwrap();
    let reader = |arguments: &[&str]| run(&service.url, file.clone(), arguments);
    assert_eq!(reader(&["devices"]).status.code(), Some(0));
    let refused = reader(&["revoke", &device, "--why", "x"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("`operator`") && said.contains("`reader`"), "{said}");
    assert_eq!(reader(&["token", "list"]).status.code(), Some(1));
    let list = service.json(&["token", "list"]);
    assert_eq!((&list["tokens"][1]["name"], &list["tokens"][1]["role"]), (&"night-shift".into(), &"reader".into()));
    for bad in [
        &["token", "create", "night-shift", "--role", "reader"][..],
        &["token", "create", "init", "--role", "reader"],
        &["token", "create", "a", "--role", "root"],
        &["token", "create", "A", "--role", "reader"],
        &["token", "create", "a"],
        &["token", "revoke", "nobody"],
        &["token", "revoke", "../x"],
        &["token", "revoke", "night-shift", "--role", "operator"],
    ] {
        assert_eq!(service.code(bad), 2, "{bad:?}");
    }
    assert_eq!(service.code(&["token", "revoke", "init"]), 1);
    assert_eq!(service.json(&["token", "revoke", "night-shift", "--role", "reader"])["revoked"], true);
    assert_eq!(reader(&["devices"]).status.code(), Some(1));
}

#[test]
fn a_token_without_a_name_gets_one_and_all_of_a_role_end_together() {
    let service = Service::start();
    for role in ["reader", "reader", "operator"] {
        assert_eq!(service.code(&["token", "create", "--role", role]), 0);
    }
    assert_eq!(service.code(&["token", "revoke"]), 2);
    assert_eq!(service.code(&["token", "revoke", "--role", "reader"]), 0);
    let roles = || -> Vec<String> {
        let list = service.json(&["token", "list"]);
        list["tokens"].as_array().unwrap().iter().map(|token| token["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(roles(), ["administrator", "operator"]);
    assert_eq!(service.code(&["token", "revoke", "--role", "reader"]), 2);
    assert_eq!(service.code(&["token", "revoke", "--role", "administrator"]), 2, "that of the installation stays");
}

#[test]
fn keys_that_are_not_there_yet_are_an_error_and_no_answer() {
    let service = Service::start();
    assert_eq!(service.code(&["keys", "show"]), 1);
    assert_eq!(service.code(&["keys"]), 2);
}

/// A verifier's folder, as `verifier init` makes it.
fn laid_out(folder: &tempfile::TempDir) -> PathBuf {
    let dir = folder.path().join("v");
    let output =
        offline(&["init", dir.to_str().unwrap(), "--broker", "localhost:18883", "--http", "127.0.0.1:0"], None);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    dir
}

/// Without a service.
fn offline(arguments: &[&str], config: Option<&std::path::Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifier"));
    command.args(arguments);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.output().unwrap()
}

#[test]
fn the_store_is_copied_and_migrated_without_a_service() {
    let folder = tempfile::tempdir().unwrap();
    let config = laid_out(&folder).join("verifier.toml");
    let store = folder.path().join("v/data/store.sqlite");
    let copy = folder.path().join("copy.sqlite");
    let backup =
        |file: &std::path::Path| offline(&["store", "backup", file.to_str().unwrap(), "--json"], Some(&config));
    assert_eq!(backup(&copy).status.code(), Some(1), "there is no store yet");
    assert_eq!(offline(&["store", "migrate"], Some(&config)).status.code(), Some(1));
    assert!(!store.exists() && !copy.exists());
    register(&Store::open(&store).unwrap(), id(0x88, 1));
    let done = backup(&copy);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["bytes"], std::fs::metadata(&copy).unwrap().len());
    let before = std::fs::read(&copy).unwrap();
    assert_eq!(backup(&copy).status.code(), Some(2), "never written over");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    assert_eq!(Store::open(&copy).unwrap().registration(id(0x88, 1)).unwrap().unwrap().device, id(0x88, 1));
    let migrated = offline(&["store", "migrate", "--json"], Some(&config));
    let migrated: Value = serde_json::from_slice(&migrated.stdout).unwrap();
    assert_eq!(migrated["from"], migrated["to"]);
    // A service holds this lock.
    let lock = std::fs::File::create(folder.path().join("v/data/mqtt-client-id")).unwrap();
    lock.lock().unwrap();
    let busy = offline(&["store", "migrate"], Some(&config));
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8(busy.stderr).unwrap().contains("a verifier runs"));
}

#[test]
fn the_configuration_is_checked_line_by_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = laid_out(&folder);
    let config = dir.join("verifier.toml");
    // Whether mosquitto is installed is not the question here.
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_verifier"));
        command.args(["config", "check", "--json", "--config"]).arg(&config);
        let output = command.env("COUNTERSIGN_VERIFIER__BROKER__SPAWN", "false").output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), report)
    };
    let line = |report: &Value, name: &str| -> Value {
        let lines = report["checks"].as_array().unwrap();
        lines.iter().rev().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{name}: {report}")).clone()
    };
    let (code, report) = check();
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{report}");
    for (name, outcome) in [
        ("root key", "ok"),
        ("api token", "ok"),
        ("broker certificate", "ok"),
        ("ek_roots", "warning"),
        ("trust", "warning"),
        ("reference_values", "warning"),
        ("policy", "ok"),
        ("store", "ok"),
    ] {
        assert_eq!(line(&report, name)["outcome"], outcome, "{name} in {report}");
    }
    // What does not keep `serve` from starting.
    std::fs::write(dir.join("reference_values/x.corim"), "nonsense").unwrap();
    std::fs::set_permissions(dir.join("broker/verifier.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, report) = check();
    assert_eq!(code, Some(0));
    assert_eq!(line(&report, "release x.corim")["outcome"], "warning");
    assert_eq!(line(&report, "broker key")["outcome"], "warning");
    // What does.
    for (name, file, text) in [
        ("policy", "policy.toml", "unlistet = 1"),
        ("policy", "policy.toml", "validity_seconds = 600"),
        ("trust", "trust/x.toml", "[[signer]]"),
        ("api token", "api-token", "short"),
        ("root key", "root-key.pem", "nothing"),
        ("broker certificates", "broker/verifier.pem", "nothing"),
        ("device ca", "broker/devices-ca.pem", "nothing"),
        ("ek_roots", "ek_roots/x.pem", "nothing"),
        ("store", "data/store.sqlite", "nothing at all, and no database"),
    ] {
        let path = dir.join(file);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, text).unwrap();
        let (code, report) = check();
        assert_eq!(code, Some(2), "{file}: {report}");
        assert_eq!(line(&report, name)["outcome"], "failed", "{file}: {report}");
        match before {
            Some(before) => std::fs::write(&path, before).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    assert_eq!(check().0, Some(0));
    std::fs::write(&config, "nam = 'x'").unwrap();
    assert_eq!(offline(&["config", "check"], Some(&config)).status.code(), Some(2));
}
