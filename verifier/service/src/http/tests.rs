//! Over a real listener, with the command line's own client.

use std::time::Duration;

use appraisal::{Code, Information, Notice, Verdict};
use serde_json::Value;
use tokio::runtime::Runtime;
use ureq::Agent;

use super::{
    api::{ApproveJson, DeviceJson, DevicesJson, FleetJson, HistoryJson, RevokeJson, time as time_of},
    problem::{MEDIA_TYPE, ProblemJson},
    *,
};
use crate::{
    client::{Client, ClientError, with_query},
    limits::MAX_HTTP_BODY,
    references::tests::Shop,
    store::{
        Accepted,
        tests::{NOW, accepted, commit, contraindicated, id, registration, store, with_boot_log, with_files},
    },
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Service {
    runtime: Runtime,
    url: String,
    app: App,
    requests: Option<mpsc::Receiver<Order>>,
    keys: watch::Sender<Option<Arc<SignedKeys>>>,
    shop: Shop,
    _folder: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let (_folder, store) = store();
        let (sender, requests) = mpsc::channel(4);
        let keys = watch::Sender::new(None);
        let shop = Shop::of(&store, || NOW + 10);
        let app = App {
            access_changed: Arc::default(),
            store,
            token: Arc::new(Token::new(TOKEN).unwrap()),
            metrics: Arc::default(),
            ready: Arc::clone(&shop.ready),
            desk: Arc::clone(&shop.desk),
            publishing: Arc::new(Semaphore::new(1)),
            orders: sender,
            keys: keys.subscribe(),
            clock: || NOW + 10,
        };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, app.clone()));
        Self { runtime, url, app, requests: Some(requests), keys, shop, _folder }
    }

    fn client(&self) -> Client {
        Client::new(&self.url, Token::new(TOKEN).unwrap()).unwrap()
    }

    fn new_token(&self, name: &str, role: Role) -> String {
        let body = serde_json::json!({ "name": name, "role": role });
        let answer = self.client().post("/v1/tokens", &body, Duration::ZERO).unwrap();
        let new: Value = serde_json::from_slice(&answer).unwrap();
        new["token"].as_str().unwrap().to_owned()
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_slice(&self.client().get(path).unwrap()).unwrap()
    }

    fn problem(&self, outcome: Result<Vec<u8>, ClientError>) -> Kind {
        let error = outcome.unwrap_err();
        error.kind().unwrap_or_else(|| panic!("{error}"))
    }

    /// Status and body of a request with these headers and no more.
    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String, Vec<u8>) {
        let agent: Agent = Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let media_type = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
        (response.status().as_u16(), media_type, response.body_mut().read_to_vec().unwrap())
    }
}

/// Every route's path with its parameters filled in, its role, and the methods that this is said of.
fn paths() -> Vec<(String, Role, Vec<&'static str>)> {
    let path = |route: &Route| route.path.replace("{id}", &id(1).to_string()).replace("{name}", "nobody");
    let methods = |route: &Route| route.only.map_or_else(|| vec!["GET", "POST"], |only| vec![only]);
    let known = routes();
    let known = known.iter().filter(|route| !OPEN.contains(&route.path));
    known.map(|route| (path(route), route.role, methods(route))).collect()
}

#[test]
fn no_route_answers_without_the_token() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let mut paths: Vec<String> = paths().into_iter().map(|(path, ..)| path).collect();
    paths.extend(["/", "/v1", "/v2/devices", "/healthz/", "/healthz/../metrics", "//healthz"].map(str::to_owned));
    let wrong = "Bearer 0123456789abcdef0123456789abcdeX";
    let headers: [&[(&str, &str)]; 6] = [
        &[],
        &[("authorization", wrong)],
        &[("authorization", "Bearer ")],
        &[("authorization", &format!("Bearer {}", "x".repeat(5000)))],
        &[("authorization", "Basic MDEyMzQ1Njc4OWFiY2RlZg==")],
        &[("authorization", TOKEN)],
    ];
    for path in paths {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            for headers in headers {
                let (status, media_type, body) = service.raw(method, &path, headers, Vec::new());
                assert_eq!((status, media_type.as_str()), (401, MEDIA_TYPE), "{method} {path} {headers:?}");
                let problem: ProblemJson = serde_json::from_slice(&body).unwrap();
                assert_eq!(problem.kind, "urn:countersign:problem:unauthorized");
            }
        }
    }
    let untouched = service.app.store.device(id(1), NOW).unwrap().unwrap();
    assert_eq!(untouched.registration.revoked, None);
}

#[test]
fn each_route_answers_its_role_and_those_above() {
    let mut service = Service::start();
    let mut orders = service.requests.take().unwrap();
    service.runtime.spawn(async move {
        while let Some(order) = orders.recv().await {
            if let Order::RotateKeys(reply) = order {
                drop(reply.send(Err("there is no root key".to_owned())));
            }
        }
    });
    for role in Role::ALL {
        let token = service.new_token(role.name(), role);
        let bearer = format!("Bearer {token}");
        for (path, needed, methods) in paths() {
            service.app.store.register(registration(1)).unwrap();
            let mut known = 0;
            for method in methods {
                let (status, _, body) = service.raw(method, &path, &[("authorization", &bearer)], Vec::new());
                let body = String::from_utf8(body).unwrap();
                if status == 405 {
                    continue;
                }
                known += 1;
                if role >= needed {
                    assert!(![401, 403].contains(&status), "{role:?} {method} {path}: {body}");
                } else {
                    assert_eq!(status, 403, "{role:?} {method} {path}: {body}");
                    assert!(
                        body.contains("urn:countersign:problem:forbidden") && body.contains(needed.name()),
                        "{body}"
                    );
                }
            }
            assert!(known > 0, "{path}");
        }
        let (status, ..) = service.raw("GET", "/v1/nothing", &[("authorization", &bearer)], Vec::new());
        assert_eq!(status, 404);
    }
}

#[test]
fn a_token_is_shown_once_named_in_history_and_gone_when_revoked() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let token = service.new_token("ada", Role::Operator);
    assert_eq!(token.len(), 64);
    let ada = Client::new(&service.url, Token::new(&token).unwrap()).unwrap();
    ada.post(&format!("/v1/devices/{}/revoke", id(1)), &serde_json::json!({ "why": "lost" }), Duration::ZERO).unwrap();
    let history: HistoryJson = service.get(&format!("/v1/devices/{}/history", id(1)));
    assert_eq!(history.history.last().unwrap().who.as_deref(), Some("ada"));
    let tokens: Value = service.get("/v1/tokens");
    assert_eq!((&tokens["tokens"][0]["name"], &tokens["tokens"][1]["name"]), (&"init".into(), &"ada".into()));
    assert_eq!(
        (&tokens["tokens"][1]["role"], &tokens["tokens"][1]["last_used"]),
        (&"operator".into(), &"2027-01-15".into())
    );
    assert!(!tokens.to_string().contains(&token));
    // Nowhere on disk either.
    let folder = service.app.store.path().parent().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()));
    }
    let nothing = serde_json::json!({});
    service.client().post("/v1/tokens/ada/revoke", &nothing, Duration::ZERO).unwrap();
    assert_eq!(service.problem(ada.get("/v1/fleet")), Kind::Unauthorized);
    let revoke = |name: &str| {
        service.problem(service.client().post(&format!("/v1/tokens/{name}/revoke"), &nothing, Duration::ZERO))
    };
    assert_eq!((revoke("ada"), revoke("init")), (Kind::UnknownToken, Kind::Forbidden));
    let create = |body: Value| service.problem(service.client().post("/v1/tokens", &body, Duration::ZERO));
    assert_eq!(create(serde_json::json!({ "name": "init", "role": "reader" })), Kind::NameTaken);
    for (name, role) in [("", "reader"), ("A", "reader"), ("a/b", "reader"), ("a", "root"), (&"a".repeat(33), "reader")]
    {
        assert_eq!(create(serde_json::json!({ "name": name, "role": role })), Kind::BadRequest, "{name} {role}");
    }
    let log: Value = service.get("/v1/operator-log");
    assert_eq!((&log["log"][0]["what"], &log["log"][1]["what"]), (&"token create".into(), &"token revoke".into()));
    assert_eq!(log["log"][1]["who"], "init");
}

#[test]
fn labels_are_set_and_devices_forgotten() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let path = |action: &str| format!("/v1/devices/{}/{action}", id(1));
    let post = |action: &str, body: Value| service.client().post(&path(action), &body, Duration::ZERO);
    let labelled = post("labels", serde_json::json!({ "labels": { "site": "a b", "rack": null } })).unwrap();
    let labelled: Value = serde_json::from_slice(&labelled).unwrap();
    assert_eq!(labelled["labels"], serde_json::json!({ "site": "a b" }));
    let list: Value = service.get(&with_query("/v1/devices", &[("label", "site=a b".to_owned())]));
    assert_eq!((&list["total"], &list["devices"][0]["labels"]["site"]), (&1.into(), &"a b".into()));
    assert_eq!(service.problem(service.client().get("/v1/devices?label=site")), Kind::BadRequest);
    for labels in [serde_json::json!({ "A": "b" }), serde_json::json!({ "a": "" }), serde_json::json!(["a"])] {
        assert_eq!(
            service.problem(post("labels", serde_json::json!({ "labels": labels }))),
            Kind::BadRequest,
            "{labels}"
        );
    }
    let many: BTreeMap<String, &str> = (0..17).map(|n| (format!("k{n}"), "v")).collect();
    assert_eq!(service.problem(post("labels", serde_json::json!({ "labels": many }))), Kind::TooMany);
    post("revoke", serde_json::json!({ "why": "lost" })).unwrap();
    assert_eq!(service.problem(post("forget", serde_json::json!({}))), Kind::Revoked);
    post("forget", serde_json::json!({ "unblock": true })).unwrap();
    assert_eq!(service.problem(post("forget", serde_json::json!({}))), Kind::UnknownDevice);
}

#[test]
fn keys_are_shown_and_replaced_on_order() {
    let mut service = Service::start();
    assert_eq!(service.problem(service.client().get("/v1/keys")), Kind::NoKeys);
    let point = |x: u8| evidence::tpm::P256Point { x: [x; 32], y: [7; 32] };
    let keys = VerifierKeys { sequence: NOW, not_after: NOW + 600, request: point(1), result: point(2), log: point(3) };
    let signed = Arc::new(SignedKeys { root: VerifierKeyId::of(&point(0)), keys, message: vec![1, 2, 3] });
    let mut orders = service.requests.take().unwrap();
    let (keys, answer) = (service.keys.clone(), Arc::clone(&signed));
    service.runtime.spawn(async move {
        while let Some(order) = orders.recv().await {
            let Order::RotateKeys(reply) = order else { continue };
            keys.send_replace(Some(Arc::clone(&answer)));
            drop(reply.send(Ok(Arc::clone(&answer))));
        }
    });
    let rotated = service.client().post("/v1/keys/rotate", &serde_json::json!({}), Duration::ZERO).unwrap();
    let rotated: Value = serde_json::from_slice(&rotated).unwrap();
    assert_eq!(rotated["made"], time_of(NOW));
    assert_eq!(rotated["message"], "AQID");
    assert_eq!(rotated["request"]["public"], format!("04{}{}", "01".repeat(32), "07".repeat(32)));
    assert_eq!(service.get::<Value>("/v1/keys"), rotated);
    assert_eq!(service.get::<Value>("/v1/operator-log")["log"][0]["what"], "keys rotate");
}

#[test]
fn the_api_description_names_every_route_and_its_role() {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    let described = document["paths"].as_object().unwrap();
    let known = routes();
    assert_eq!(described.len(), known.iter().map(|route| route.path).collect::<BTreeSet<_>>().len());
    for route in known {
        let methods = described.get(route.path).unwrap_or_else(|| panic!("{}", route.path)).as_object().unwrap();
        let open = OPEN.contains(&route.path);
        let named = |method: &str| route.only.is_none_or(|only| only.eq_ignore_ascii_case(method));
        for (method, operation) in methods.iter().filter(|(method, _)| named(method)) {
            let role = if open { Value::Null } else { route.role.name().into() };
            assert_eq!(operation["x-role"], role, "{method} {}", route.path);
        }
    }
    let what: Vec<&str> = crate::store::What::ALL.iter().map(|what| what.name()).collect();
    assert_eq!(document["components"]["schemas"]["HistoryRow"]["properties"]["what"]["enum"], serde_json::json!(what));
    // Whatever is referred to is there.
    let text = openapi::DOCUMENT;
    for reference in text.split("\"$ref\": \"#/").skip(1) {
        let pointer = format!("/{}", reference.split('"').next().unwrap());
        assert!(document.pointer(&pointer).is_some(), "{pointer}");
    }
}

#[test]
fn health_and_readiness_are_open() {
    let service = Service::start();
    assert_eq!(service.raw("GET", "/healthz", &[], Vec::new()).0, 200);
    let (status, media_type, body) = service.raw("GET", "/readyz", &[], Vec::new());
    assert_eq!((status, media_type.as_str()), (503, MEDIA_TYPE));
    assert!(String::from_utf8(body).unwrap().contains("waiting for: broker"));
    service.app.ready.set("broker", true);
    assert_eq!(service.raw("GET", "/readyz", &[], Vec::new()).0, 200);
}

/// With something in every field of a device.
fn with_all(accepted: Accepted) -> Accepted {
    let mut all = with_boot_log(with_files(contraindicated(accepted), &["sh"]), b"log");
    let state = &mut all.appraisal.state;
    let facts = state.boot.boot_log.as_mut().unwrap();
    (facts.secure_boot, facts.command_line) = (Some(true), Some("quiet".to_owned()));
    state.information = vec![Information { code: Notice::BootResumed, detail: "once".to_owned(), since: NOW }];
    all
}

#[test]
fn a_device_that_sent_nothing_yet_has_no_boot() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let device: Value = service.get(&format!("/v1/devices/{}", id(1)));
    assert_eq!((&device["boot"], &device["information"]), (&Value::Null, &serde_json::json!([])));
}

#[test]
fn a_device_is_shown_in_the_documented_shape() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    commit(&service.app.store, with_all(accepted(1, 1, None)));
    let device: Value = service.get(&format!("/v1/devices/{}", &id(1).to_string()[..8]));
    assert_eq!(device["id"], id(1).to_string());
    assert_eq!(device["verdict"], "contraindicated");
    assert_eq!(device["expires"], "2027-01-15T08:10:01Z");
    assert_eq!(device["last_evidence"], "2027-01-15T08:00:01Z");
    assert_eq!(device["last_check"], "epoch");
    assert_eq!(device["product"], Value::Null);
    assert_eq!(device["release"], "1.0");
    assert_eq!(device["claims"]["instance-identity"], serde_json::json!({ "value": 2, "tier": "affirming" }));
    assert_eq!(device["causes"][0]["code"], "runtime.unknown-executable");
    assert_eq!(device["causes"][0]["detail"], "/tmp/x sha256:00");
    assert_eq!(device["causes"][0]["first_seen"], "2027-01-15T08:00:00Z");
    assert_eq!(device["tolerated"], serde_json::json!(["hardware.software-tpm"]));
    assert_eq!(device["running"][0]["path"], "/usr/bin/sh");
    let boot = serde_json::json!({
        "secure_boot": true, "command_line": "quiet", "kernel": null, "events": 1, "reset": 1, "restart": 0,
    });
    assert_eq!(device["boot"], boot);
    let information = serde_json::json!([{
        "code": "boot.resumed", "detail": "once", "first_seen": "2027-01-15T08:00:00Z",
    }]);
    assert_eq!(device["information"], information);
    let list: Value = service.get("/v1/devices");
    assert_eq!((&list["total"], &list["next"]), (&Value::from(1), &Value::Null));
    assert_eq!(list["devices"][0].get("claims"), None);
    let (status, media_type, body) = service.raw(
        "GET",
        &format!("/v1/devices/{}/result", id(1)),
        &[("authorization", &format!("Bearer {TOKEN}"))],
        vec![],
    );
    assert_eq!((status, media_type.as_str(), body), (200, "application/eat+cwt", vec![2, 3]));
}

#[test]
fn lists_take_every_filter_and_refuse_what_they_do_not_know() {
    let service = Service::start();
    for number in 0..5 {
        service.app.store.register(registration(number)).unwrap();
    }
    commit(&service.app.store, with_files(accepted(1, 1, None), &["sh"]));
    commit(&service.app.store, contraindicated(accepted(2, 1, None)));
    service.app.store.approve(id(1), Some("acme/a router & more"), "test", NOW).unwrap();
    let find = |name: &str, value: &str| -> Vec<String> {
        let page: DevicesJson = service.get(&with_query("/v1/devices", &[(name, value.to_owned())]));
        page.devices.into_iter().map(|device| device.id).collect()
    };
    let digest = data_encoding::HEXLOWER.encode(&crate::store::tests::file("sh").digest);
    for (name, value) in [("verdict", "affirmed"), ("running", &digest), ("product", "acme/a router & more")] {
        assert_eq!(find(name, value), [id(1).to_string()], "{name}");
    }
    assert_eq!(find("cause", "runtime.unknown-executable"), [id(2).to_string()]);
    assert_eq!(find("cause", Code::NeverSeen.row().code).len(), 3);
    assert_eq!(find("release", "1.0").len(), 2);
    assert_eq!(find("overdue", "true").len(), 0);
    let page: DevicesJson = service.get("/v1/devices?limit=2");
    assert_eq!((page.devices.len(), page.total), (2, 5));
    let rest: DevicesJson = service.get(&format!("/v1/devices?limit=1000&after={}", page.next.unwrap()));
    assert_eq!((rest.devices.len(), rest.next), (3, None));
    for bad in [
        "verdict=good",
        "running=12",
        "cause=x",
        "limit=0",
        "limit=1001",
        "limit=-1",
        "after=1",
        "colour=red",
        "overdue=maybe",
    ] {
        assert_eq!(service.problem(service.client().get(&format!("/v1/devices?{bad}"))), Kind::BadRequest, "{bad}");
    }
}

#[test]
fn ids_that_name_no_one_device_are_told_apart() {
    let service = Service::start();
    let get = |path: &str| service.problem(service.client().get(path));
    assert_eq!(get("/v1/devices/abc"), Kind::NotAnId);
    assert_eq!(get("/v1/devices/..%2f..%2fetc"), Kind::NotAnId);
    assert_eq!(get("/v1/devices/00000000"), Kind::UnknownDevice);
    assert_eq!(get(&format!("/v1/devices/{}/history", id(1))), Kind::UnknownDevice);
    assert_eq!(get("/v1/nothing"), Kind::NoSuchPath);
    assert_eq!(get("/v1/devices/00000000/check"), Kind::NoSuchMethod);
    service.app.store.register(registration(1)).unwrap();
    assert_eq!(get(&format!("/v1/devices/{}/result", id(1))), Kind::NoResult);
}

#[test]
fn an_operator_admits_and_shuts_out() {
    let mut service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    commit(&service.app.store, accepted(1, 1, None));
    let path = |action: &str| format!("/v1/devices/{}/{action}", id(1));
    let post = |action: &str, body: &Value| service.client().post(&path(action), body, Duration::ZERO);
    let revoked: DeviceJson =
        serde_json::from_slice(&post("revoke", &serde_json::json!(RevokeJson { why: "stolen".into() })).unwrap())
            .unwrap();
    assert_eq!(
        (revoked.summary.verdict, revoked.identity.revoked.as_deref()),
        (Verdict::Contraindicated, Some("stolen"))
    );
    let body = serde_json::json!(ApproveJson { product: Some("acme/router".into()) });
    let approved: DeviceJson = serde_json::from_slice(&post("approve", &body).unwrap()).unwrap();
    assert_eq!(
        (approved.summary.verdict, approved.summary.product.as_deref()),
        (Verdict::Affirmed, Some("acme/router"))
    );
    let history: HistoryJson = service.get(&path("history"));
    let what: Vec<_> = history.history.iter().map(|row| row.what.as_str()).collect();
    assert_eq!(what, ["enrolled", "evidence", "revoked", "approved"]);
    for (action, body) in [
        ("revoke", serde_json::json!({})),
        ("revoke", serde_json::json!({ "why": "" })),
        ("revoke", serde_json::json!({ "why": "two\nlines" })),
        ("revoke", serde_json::json!({ "why": "x".repeat(600) })),
        ("revoke", serde_json::json!({ "why": "x", "when": "now" })),
        ("approve", serde_json::json!({ "product": 1 })),
        ("approve", serde_json::json!([])),
    ] {
        assert_eq!(service.problem(post(action, &body)), Kind::BadRequest, "{action} {body}");
    }
    // Admission asks for evidence, so that the verdict follows.
    assert!(matches!(service.requests.as_mut().unwrap().try_recv(), Ok(Order::Check { device }) if device == id(1)));
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let body = serde_json::json!({ "why": "x".repeat(MAX_HTTP_BODY) });
    let outcome = service.client().post(&format!("/v1/devices/{}/revoke", id(1)), &body, Duration::ZERO);
    assert_eq!(service.problem(outcome), Kind::TooLarge);
}

#[test]
fn a_check_waits_for_the_answer_to_its_own_request() {
    let mut service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    commit(&service.app.store, accepted(1, 1, None));
    let mut requests = service.requests.take().unwrap();
    let store = service.app.store.clone();
    service.runtime.spawn(async move {
        assert!(matches!(requests.recv().await, Some(Order::Check { device }) if device == id(1)));
        // Under way already when the device was asked; then the answer.
        store.commit_async(vec![accepted(1, 2, Some(1))]).await.unwrap();
        let mut answer = contraindicated(accepted(1, 3, Some(2)));
        answer.appraisal.state.last_check = evidence::claims::Why::Request;
        store.commit_async(vec![answer]).await.unwrap();
        assert!(matches!(requests.recv().await, Some(Order::Check { device }) if device == id(1)));
    });
    let path = format!("/v1/devices/{}/check", id(1));
    let nothing = serde_json::json!({});
    let answer = service.client().post(&format!("{path}?wait=30"), &nothing, Duration::from_secs(30)).unwrap();
    let device: DeviceJson = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        (device.summary.verdict, device.summary.last_check.as_deref()),
        (Verdict::Contraindicated, Some("request"))
    );
    let asked: Value =
        serde_json::from_slice(&service.client().post(&path, &nothing, Duration::ZERO).unwrap()).unwrap();
    assert_eq!(asked["asked"], true);
}

#[test]
fn a_check_that_nobody_answers_ends_in_time() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    let path = format!("/v1/devices/{}/check", id(1));
    let post =
        |query: &str| service.client().post(&format!("{path}{query}"), &serde_json::json!({}), Duration::from_secs(5));
    assert_eq!(service.problem(post("?wait=1")), Kind::CheckTimeout);
    assert_eq!(service.problem(post("?wait=100000")), Kind::BadRequest);
    for _ in 0..3 {
        post("").unwrap();
    }
    assert_eq!(service.problem(post("")), Kind::Busy, "the queue is bounded");
}

#[test]
fn counts_and_metrics_say_how_the_fleet_stands() {
    let service = Service::start();
    for number in 0..3 {
        service.app.store.register(registration(number)).unwrap();
    }
    commit(&service.app.store, accepted(1, 1, None));
    let fleet: FleetJson = service.get("/v1/fleet");
    assert_eq!((fleet.total, fleet.verdicts["affirmed"], fleet.verdicts["unknown"], fleet.never_seen), (3, 1, 2, 2));
    service.app.metrics.refused("quote.signature");
    let metrics = String::from_utf8(service.client().get("/metrics").unwrap()).unwrap();
    assert!(metrics.contains("countersign_devices{verdict=\"unknown\"} 2"), "{metrics}");
    assert!(metrics.contains("countersign_evidence_refused_total{code=\"quote.signature\"} 1"), "{metrics}");
    let references: Value = service.get("/v1/reference-values");
    assert_eq!(references["releases"], serde_json::json!([]));
}

#[test]
fn the_client_says_where_nobody_answers() {
    let service = Service::start();
    let url = service.url.clone();
    let client = service.client();
    drop(service);
    let error = client.get("/v1/fleet").unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { url: at, .. } if *at == url), "{error}");
    assert!(!error.is_usage());
    for bad in ["https://127.0.0.1:1", "127.0.0.1:1", "http://a b"] {
        assert!(matches!(Client::new(bad, Token::new(TOKEN).unwrap()), Err(ClientError::Url(_))), "{bad}");
    }
}

#[test]
fn a_token_is_compared_whole() {
    let token = Token::new(TOKEN).unwrap();
    assert!(token.is(TOKEN.as_bytes()));
    for other in ["", &TOKEN[..31], &format!("{TOKEN}0"), &TOKEN.to_uppercase()] {
        assert!(!token.is(other.as_bytes()), "{other}");
    }
    assert!(Token::new("short").is_none() && Token::new(&"x".repeat(300)).is_none());
    assert!(Token::new(&format!("{TOKEN} {TOKEN}")).is_none());
    assert!(!format!("{token:?}").contains(TOKEN));
}

#[test]
fn a_list_of_endorsement_keys_is_taken_whole_or_not_at_all() {
    let service = Service::start();
    let key = |number: u64| serde_json::json!({ "id": id(number).to_string(), "product": "acme/router" });
    let list =
        |keys: Vec<Value>| service.client().post("/v1/allowed", &serde_json::json!({ "keys": keys }), Duration::ZERO);
    for bad in [
        serde_json::json!({ "id": "abcd" }),
        serde_json::json!({ "id": id(2).to_string(), "product": "" }),
        serde_json::json!({ "id": id(2).to_string(), "product": "a\u{1b}b" }),
        serde_json::json!({ "id": id(2).to_string(), "produkt": "a" }),
    ] {
        assert_eq!(service.problem(list(vec![key(1), bad.clone()])), Kind::BadRequest, "{bad}");
    }
    assert_eq!(service.problem(list(Vec::new())), Kind::BadRequest);
    assert!(!service.app.store.allows(&[id(1).0]).unwrap());
    // Longer than any other body.
    let answer = list((1..2_000).map(key).collect()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap(), serde_json::json!({ "listed": 1999, "new": 1999 }));
    let answer = list(vec![key(1), key(5_000)]).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap(), serde_json::json!({ "listed": 2, "new": 1 }));
    assert!(service.app.store.allows(&[id(9_999).0, id(1_999).0]).unwrap());
}

#[test]
fn the_certificate_of_an_attestation_key_comes_as_it_was_signed() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    assert_eq!(service.client().get(&format!("/v1/devices/{}/ak-certificate", id(1))).unwrap(), [1]);
    let unknown = service.client().get(&format!("/v1/devices/{}/ak-certificate", id(2)));
    assert_eq!(service.problem(unknown), Kind::UnknownDevice);
}

/// Every object of a document has the members that the description says, and no others.
fn conforms(description: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return conforms(description, description.pointer(&reference[1..]).unwrap(), value, at);
    }
    if let Some(options) = schema.get("oneOf").and_then(Value::as_array) {
        let option = options.iter().find(|option| (option["type"] == "null") == value.is_null()).unwrap();
        return conforms(description, option, value, at);
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        let whole = |part: &Value| match part.get("$ref").and_then(Value::as_str) {
            Some(reference) => description.pointer(&reference[1..]).unwrap().clone(),
            None => part.clone(),
        };
        let properties: serde_json::Map<String, Value> =
            parts.iter().flat_map(|part| whole(part)["properties"].as_object().unwrap().clone()).collect();
        return conforms(description, &serde_json::json!({ "properties": properties }), value, at);
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| conforms(description, items, value, at));
    }
    if let (Some(properties), Some(members)) = (schema.get("properties").and_then(Value::as_object), value.as_object())
    {
        for (name, member) in members {
            let known = properties.get(name).unwrap_or_else(|| panic!("{at}.{name} is not described"));
            conforms(description, known, member, &format!("{at}.{name}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(members.contains_key(name.as_str().unwrap()), "{at} lacks {name}");
        }
    }
}

#[test]
fn answers_are_as_the_api_description_says() {
    let service = Service::start();
    service.app.store.register(registration(1)).unwrap();
    commit(&service.app.store, with_all(accepted(1, 1, None)));
    service.app.store.revoke(id(1), "stolen", "ada", NOW).unwrap();
    service.new_token("ada", Role::Reader);
    let description: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    for (path, ..) in paths() {
        let name = path.replace(&id(1).to_string(), "{id}").replace("nobody", "{name}");
        let answer = &description["paths"][&name]["get"]["responses"]["200"]["content"]["application/json"];
        let (Some(schema), Ok(body)) = (answer.get("schema"), service.client().get(&path)) else { continue };
        conforms(&description, schema, &serde_json::from_slice(&body).unwrap(), &path);
    }
}

#[test]
fn a_document_is_published_shown_and_in_the_log_and_a_refused_one_says_its_code() {
    let service = Service::start();
    let token = service.new_token("ada", Role::Operator);
    let bearer = format!("Bearer {token}");
    let post = |bytes: Vec<u8>| {
        let (status, _, body) = service.raw("POST", "/v1/reference-values", &[("authorization", &bearer)], bytes);
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let (status, published) = post(service.shop.release("1.0", 2, 1));
    assert_eq!((status, &published["name"], &published["sequence"]), (200, &"1.0".into(), &2.into()));
    assert_eq!(published["affected"], serde_json::json!(["a/b"]));
    let shown: Value = service.get("/v1/reference-values");
    assert_eq!(
        (&shown["releases"][0]["release"], &shown["documents"][0]["file"]),
        (&"1.0".into(), &"a_b~1.0.corim".into())
    );
    assert_eq!(shown["documents"][0]["signers"][0]["name"], "Maker");
    assert_eq!(service.get::<Value>("/v1/operator-log")["log"][1]["what"], "publish");
    for (bytes, status, code) in [
        (b"nonsense".to_vec(), 422, "release.unreadable"),
        (service.shop.release("1.0", 1, 1), 409, "release.older"),
        (service.shop.release("1.0", 2, 9), 409, "release.conflict"),
    ] {
        let (found, problem) = post(bytes);
        assert_eq!((found, &problem["code"]), (status, &code.into()), "{problem}");
    }
    assert_eq!(post(Vec::new()).0, 400);
    assert_eq!(service.get::<Value>("/v1/reference-values"), shown);
    service.app.ready.set("broker", true);
    std::fs::write(service.shop.config.reference_values.join("x.corim"), b"x").unwrap();
    (0..2).for_each(|_| service.shop.desk.look());
    let ready = String::from_utf8(service.raw("GET", "/readyz", &[], Vec::new()).2).unwrap();
    assert!(ready.contains("reference-values"), "{ready}");
    let shown: Value = service.get("/v1/reference-values");
    assert_eq!((&shown["refused"][0]["file"], &shown["refused"][0]["held"]), (&"x.corim".into(), &false.into()));
}
