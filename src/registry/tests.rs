//! The task beside a registry that takes everything. What it is told is what is looked at.

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::{
    bridge::{self, Bridge},
    health::Part,
    listeners::{
        OwnSockets, Source,
        tests::{socket, table},
    },
};

/// Far above what anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Call and body of a request.
async fn read(stream: &mut TcpStream) -> (String, String) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut call, mut length) = (String::new(), String::new(), 0);
    while stream.read_line(&mut line).await.unwrap() > 2 {
        if call.is_empty() {
            call = line.split(" HTTP/1.1").next().unwrap().to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (call, String::from_utf8(body).unwrap())
}

/// A task, what it depends on, and what its registry hears.
struct Scene {
    vm_id: watch::Sender<Option<String>>,
    observations: watch::Sender<Arc<Observation>>,
    /// Of the bridge, which does nothing.
    _bridge: Bridge,
    reports: watch::Receiver<Report>,
    drain: CancellationToken,
    task: JoinHandle<()>,
    heard: mpsc::UnboundedReceiver<String>,
}

fn observed(ports: &[u16]) -> Arc<Observation> {
    let sockets = ports.iter().map(|port| socket("::", *port)).collect();
    Arc::new(Observation { table: table(sockets), source: Source::SockDiag, failure: None, truncated: false })
}

impl Scene {
    /// Calls by a method in `unanswered` get no answer.
    async fn set(vm_id: Option<&str>, unanswered: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (hear, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let hear = hear.clone();
                tokio::spawn(async move {
                    let (call, body) = read(&mut stream).await;
                    let silent = !unanswered.is_empty() && call.starts_with(unanswered);
                    hear.send(format!("{call} {body}").trim().to_owned()).unwrap();
                    if silent {
                        return drop(stream.read(&mut [0]).await);
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                });
            }
        });
        let config = Config {
            registry_url: ServiceUrl::parse(&url),
            registry_heartbeat: Duration::from_secs(3600),
            ..Config::default()
        };
        let (vm_id, id) = watch::channel(vm_id.map(str::to_owned));
        let (observations, observed) = watch::channel(observed(&[80]));
        let settings = bridge::Settings { auto: false, rules: Vec::new(), routable_ports: RoutablePorts::All };
        let (bridge, handle) = Bridge::new(settings, OwnSockets::default(), bridge::PlaneSettings::default());
        let sources = Sources { vm_id: id, observations: observed, bridge: handle };
        let (registry, reports) = Registry::new(&config, sources);
        let drain = CancellationToken::new();
        let task = tokio::spawn(registry.unwrap().run(drain.clone()));
        Self { vm_id, observations, _bridge: bridge, reports, drain, task, heard }
    }

    async fn heard(&mut self) -> String {
        timeout(DEADLINE, self.heard.recv()).await.expect("the registry hears something").unwrap()
    }

    /// Drains; what the registry heard until then and was not looked at.
    async fn end(mut self) -> Vec<String> {
        self.drain.cancel();
        timeout(DEADLINE, self.task).await.expect("the task ends").unwrap();
        let mut rest = Vec::new();
        while let Ok(heard) = self.heard.try_recv() {
            rest.push(heard);
        }
        rest
    }
}

#[tokio::test]
async fn vm_that_gets_another_id_registers_it_and_leaves_the_formers_entry_alone() {
    let mut scene = Scene::set(Some("parent"), "").await;
    assert!(scene.heard().await.starts_with("POST /registry/vms {\"id\":\"parent\""));
    scene.vm_id.send_replace(Some("child".to_owned()));
    let registered = scene.heard().await;
    assert!(
        registered.starts_with("POST /registry/vms {\"id\":\"child\"") && registered.contains("child.vm.vers.sh"),
        "{registered}"
    );
    let says_child =
        |report: &Report| matches!(report, Report::Entry(entry) if entry.id == "child" && entry.registered);
    timeout(DEADLINE, scene.reports.wait_for(says_child)).await.unwrap().unwrap();
    assert_eq!(scene.end().await, ["DELETE /registry/vms/child"]);
}

#[tokio::test]
async fn call_of_the_former_id_is_given_up() {
    let mut scene = Scene::set(Some("parent"), "POST").await;
    scene.heard().await;
    let began = Instant::now();
    scene.vm_id.send_replace(None);
    let no_id = |report: &Report| matches!(report, Report::NoId { .. });
    timeout(DEADLINE, scene.reports.wait_for(no_id)).await.unwrap().unwrap();
    assert!(began.elapsed() < limits::REGISTRY_CALL_TIME / 2);
    assert_eq!(scene.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn id_that_comes_late_is_registered_when_it_is_there() {
    let mut scene = Scene::set(None, "").await;
    assert!(matches!(scene.reports.borrow().part(Instant::now()), Part::Failed(why) if why.contains("VERS_VM_ID")));
    scene.vm_id.send_replace(Some("abc".to_owned()));
    assert!(scene.heard().await.starts_with("POST /registry/vms {\"id\":\"abc\""));
    assert_eq!(scene.end().await, ["DELETE /registry/vms/abc"]);
}

#[tokio::test]
async fn services_that_come_and_go_within_a_second_are_told_as_they_are_in_the_end() {
    let mut scene = Scene::set(Some("abc"), "").await;
    scene.heard().await;
    let began = Instant::now();
    for port in 1000..2000 {
        scene.observations.send_replace(observed(&[80, port]));
        tokio::task::yield_now().await;
    }
    // On a slow machine a second may pass meanwhile.
    let mut told = scene.heard().await;
    let mut calls = 1;
    while !told.contains("\"port\":1999}") {
        assert!(told.starts_with("PATCH /registry/vms/abc "), "{told}");
        (told, calls) = (scene.heard().await, calls + 1);
    }
    assert!(calls <= began.elapsed().as_secs(), "{calls} calls in {:?}", began.elapsed());
    assert!(began.elapsed() >= limits::REGISTRY_COALESCE_TIME);
    assert_eq!(scene.end().await, ["DELETE /registry/vms/abc"]);
}

#[tokio::test]
async fn drain_waits_for_the_call_that_is_under_way_so_that_the_entrys_end_is_last() {
    let mut scene = Scene::set(Some("abc"), "POST").await;
    scene.heard().await;
    let began = Instant::now();
    assert_eq!(scene.end().await, ["DELETE /registry/vms/abc"]);
    assert!(began.elapsed() < limits::REGISTRY_CALL_TIME / 2);
}

#[test]
fn many_listeners_are_judged_on_a_thread_of_their_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(judge_many());
}

/// On a runtime that has one such thread, so that it is known when that has no time for it.
async fn judge_many() {
    let config = Config { registry_url: ServiceUrl::parse("http://infra"), ..Config::default() };
    let settings = bridge::Settings { auto: false, rules: Vec::new(), routable_ports: RoutablePorts::All };
    let (_bridge, bridge) = Bridge::new(settings, OwnSockets::default(), bridge::PlaneSettings::default());
    let (_id, vm_id) = watch::channel(Some("abc".to_owned()));
    let (observe, observations) = watch::channel(observed(&[80]));
    let mut registry = Registry::new(&config, Sources { vm_id, observations, bridge }).0.unwrap();
    assert_eq!(registry.content("abc").now_or_never().expect("few are judged at once").services.len(), 1);
    let many: Vec<u16> = (0..=limits::LISTENERS_AT_ONCE).map(|port| port as u16 + 1).collect();
    observe.send_replace(observed(&many));
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let other = tokio::task::spawn_blocking(move || wait.recv());
    assert!(registry.content("abc").now_or_never().is_none(), "others get no turn");
    drop(free);
    assert!(other.await.unwrap().is_err());
    let Content { services, left_out, .. } = registry.content("abc").await;
    assert_eq!((services.len(), services.len() + left_out), (limits::REGISTRY_SERVICES, many.len()));
}
