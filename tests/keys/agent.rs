//! The agent with an image's files, in namespaces of its own: keys over the API and by guestctl, what a crash leaves, and a VM's own keys
//! from its first start on.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use guestd::sys::root_dir::RootDir;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    pool::{Pool, now, open_to_questions, set, store},
    sshd_rig::{ENTER, Image, Sshd, run, stdout},
    support::{DEADLINE, PROGRAM, TestAgent, answer, eventually, request},
};

/// Enters an image, with a network of its own, so that the agent sees no sshd but the tests'. What it logs goes to a file.
struct Entrance(Vec<String>);

impl Entrance {
    fn to(image: &Image) -> Self {
        let script = format!("exec 2>>\"$0/../log\" && ip link set lo up && {ENTER}");
        let root = image.root().display().to_string();
        let words = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", &script, &root];
        Self(words.map(str::to_owned).into())
    }

    /// The namespaces that a process is in.
    fn of(pid: u32, image: &Image) -> Self {
        let script = format!("exec 2>>{}/../log && exec \"$@\"", image.root().display());
        let words = ["nsenter", "--target", &pid.to_string(), "--net", "--mount", "sh", "-c", &script, "sh"];
        Self(words.map(str::to_owned).into())
    }

    fn words(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn config(vm_id: &str) -> String {
    format!("vm_id = \"{vm_id}\"\n[bridge]\nauto = false\n")
}

fn start(image: &Image) -> TestAgent {
    TestAgent::start_with(&config("a"), &Entrance::to(image).words())
}

fn add(agent: &TestAgent, body: &Value) -> (u16, Value) {
    agent.call("POST", "/v1/keys", &body.to_string())
}

/// Sources of the authorized keys.
fn sources(agent: &TestAgent) -> Vec<String> {
    let keys = agent.get("/v1/keys");
    let keys = keys["authorized"].as_array().unwrap();
    keys.iter().map(|key| key["source"].as_str().unwrap().to_owned()).collect()
}

fn log(image: &Image) -> String {
    fs::read_to_string(image.path("log")).unwrap_or_default()
}

#[test]
fn keys_are_set_over_the_api_sshd_accepts_them_and_no_private_half_is_ever_told() {
    let (image, pool) = (Image::installed(), Pool::new());
    open_to_questions(&image, &["ada"]);
    let agent = start(&image);
    let sshd = Sshd::start(&image, "127.0.0.1");
    let body = json!({"keys": [pool.line(0), format!("restrict {} laptop", pool.line(4))], "user": "ada", "expires": now() + 3600});
    let (status, added) = add(&agent, &body);
    assert_eq!(status, 200, "{added}");
    assert_eq!((&added["keys"][1]["options"], &added["keys"][1]["comment"]), (&json!("restrict"), &json!("laptop")));
    assert_eq!((&added["keys"][0]["source"], &added["note"]), (&json!("manual"), &Value::Null));
    assert_eq!(add(&agent, &body), (200, added.clone()));
    assert_eq!(pool.accepted(&sshd, "ada"), set(&[0, 4]));

    let keys = agent.get("/v1/keys");
    assert_eq!(sources(&agent), ["manual", "manual", "golden", "vm"]);
    let fingerprint = stdout(&run(Command::new("ssh-keygen").arg("-lf").arg(pool.private(0).with_extension("pub"))));
    let listed = keys["authorized"][0]["fingerprint"].as_str().unwrap();
    assert!(fingerprint.contains(listed), "{fingerprint} {listed}");
    let names: Vec<_> =
        keys["identities"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!((names, keys["host_keys"].as_array().unwrap().len()), (vec!["golden", "vm"], 1));

    let id = added["keys"][0]["id"].as_str().unwrap();
    let (status, removed) = agent.call("DELETE", &format!("/v1/keys?id={id}"), "");
    assert_eq!((status, &removed["keys"][0]), (200, &added["keys"][0]));
    assert_eq!(pool.accepted(&sshd, "ada"), set(&[4]));
    assert_eq!(agent.call("DELETE", &format!("/v1/keys?id={id}"), "").0, 404);
    assert_eq!(agent.call("DELETE", "/v1/keys", "").0, 400);

    // A private key, given by mistake, is not repeated; and none of the VM's own is told.
    let private = fs::read_to_string(pool.private(1)).unwrap();
    let (status, refused) = add(&agent, &json!({"keys": [private]}));
    assert_eq!((status, refused["code"].as_str()), (422, Some("invalid_field")), "{refused}");
    let (_, unknown_user) = add(&agent, &json!({"keys": [pool.line(0)], "user": "eve"}));
    assert_eq!(unknown_user["code"], "user_not_found");
    let health = agent.check("keys");
    assert_eq!(health["state"], "ok", "{health}");
    let said = [keys, added, removed, refused, health].map(|body| body.to_string()).join("\n") + &log(&image);
    let secrets = [private, fs::read_to_string(image.etc("guestd/ssh/vm_ed25519")).unwrap()];
    let secrets = secrets.iter().flat_map(|text| text.lines().filter(|line| line.len() > 20 && !line.starts_with('-')));
    for line in secrets.chain(["PRIVATE KEY-----"]) {
        assert!(!said.contains(line), "a private key was told");
    }
}

#[test]
fn what_this_vms_sshd_does_not_take_is_refused_and_keys_that_it_does_not_read_are_told_of() {
    let (image, pool) = (Image::installed(), Pool::new());
    let config = fs::read_to_string(image.etc("ssh/sshd_config")).unwrap();
    image.write("ssh/sshd_config", &format!("PubkeyAcceptedAlgorithms ssh-ed25519\n{config}"));
    let agent = start(&image);
    let (status, refused) = add(&agent, &json!({"keys": [pool.line(0), pool.line(4)]}));
    let said = refused["error"].as_str().unwrap();
    assert!(
        status == 422 && said == "key 2 of those given is of type ssh-rsa, which this VM's sshd does not accept",
        "{said}"
    );
    image.write("ssh/sshd_config", "AuthorizedKeysFile .ssh/authorized_keys\n");
    let (status, added) = add(&agent, &json!({"keys": [pool.line(4)]}));
    let note = added["note"].as_str().unwrap();
    assert!(status == 200 && note.starts_with("sshd does not read /etc/guestd/ssh/authorized_keys/%u"), "{note}");
    // One that cannot say is no reason to refuse a key.
    image.write("ssh/sshd_config", "Nonsense\n");
    assert_eq!(add(&agent, &json!({"keys": [pool.line(3)]})).0, 200);
}

fn guestctl(agent: &TestAgent, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("--vm").arg(format!("unix:{}", agent.socket().display())).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that reads no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn guestctl_lists_adds_and_removes_keys() {
    let (image, pool) = (Image::installed(), Pool::new());
    open_to_questions(&image, &["ada"]);
    let agent = start(&image);
    let file = pool.private(0).with_extension("pub").display().to_string();
    let add = guestctl(&agent, &["keys", "add", "-u", "ada", "--source", "host", "--expires", "2099-12-31", &file], "");
    assert!(add.status.success(), "{add:?}");
    let text = stdout(&add);
    assert!(text.starts_with("ID ") && text.contains("  ada   host    ssh-ed25519  SHA256:"), "{text}");
    assert!(text.contains("2099-12-31T00:00:00Z"), "{text}");
    let lines = format!("# two\n{}\n\n{} b\n", pool.line(1), pool.line(2));
    assert!(guestctl(&agent, &["keys", "add", "-"], &lines).status.success());

    let list: Value = serde_json::from_slice(&guestctl(&agent, &["--json", "keys", "list"], "").stdout).unwrap();
    let count = list["authorized"].as_array().unwrap().len();
    assert_eq!((count, &list["authorized"][0]["source"]), (5, &json!("host")));
    let table = stdout(&guestctl(&agent, &["keys"], ""));
    assert!(table.contains("\nIDENTITY  TYPE") && table.contains("\nHOST KEY  TYPE"), "{table}");

    let id = list["authorized"][0]["id"].as_str().unwrap();
    let remove = guestctl(&agent, &["keys", "remove", id], "");
    assert!(remove.status.success() && stdout(&remove).contains(id), "{remove:?}");
    let again = guestctl(&agent, &["keys", "remove", id], "");
    assert_eq!(again.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&again.stderr).contains("no managed key has the id"), "{again:?}");
    let private = guestctl(&agent, &["keys", "add", &pool.private(0).display().to_string()], "");
    let said = String::from_utf8_lossy(&private.stderr);
    assert!(private.status.code() == Some(125) && said.contains("holds a private key"), "{said}");
}

/// Adds keys one after the other until the agent is gone; tells which were there for sure.
fn add_until_it_ends(socket: &Path, lines: &[String], told: &mpsc::Sender<usize>) {
    for (number, line) in lines.iter().enumerate() {
        let Ok(mut stream) = UnixStream::connect(socket) else { return };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let body = json!({"keys": [line]}).to_string();
        if stream.write_all(request("POST", "/v1/keys", &body).as_bytes()).is_err() {
            return;
        }
        let mut status = String::new();
        if BufReader::new(stream).read_line(&mut status).is_err() || !status.starts_with("HTTP/1.1 200") {
            return;
        }
        told.send(number).unwrap();
    }
}

#[test]
fn an_agent_that_is_killed_while_it_adds_keys_loses_none_that_it_has_answered_for() {
    let image = Image::installed();
    let mut agent = start(&image);
    let before = fs::read(image.etc("guestd/ssh/authorized_keys/root")).unwrap();
    let mut there: BTreeSet<String> = BTreeSet::new();
    for round in 0..20 {
        let line = |_| guestd::keys::GoldenPair::generate().unwrap().public_text().trim().to_owned();
        let lines: Vec<_> = (0..12).map(line).collect();
        let (tell, told) = mpsc::channel();
        let (socket, some) = (agent.socket().to_owned(), &lines);
        let answered = thread::scope(|scope| {
            scope.spawn(move || add_until_it_ends(&socket, some, &tell));
            // Killed when it has answered for as many, and is at the next.
            let answered: Vec<_> = told.iter().take(1 + round % 7).collect();
            agent.stop(Signal::SIGKILL);
            answered.into_iter().chain(told.iter()).collect::<Vec<_>>()
        });
        there.extend(answered.iter().map(|number| lines[*number].clone()));
        agent.launch(Path::new(PROGRAM), &Entrance::to(&image).words());
        let (listed, problems) = store(&image).list();
        assert_eq!(problems, Vec::<String>::new());
        for line in &there {
            assert!(listed.iter().any(|key| line.starts_with(&key.key.key)), "round {round}: a key is lost");
        }
        eventually("half-written files are swept", || {
            let names = fs::read_dir(image.etc("guestd/ssh/authorized_keys")).unwrap();
            let left =
                names.filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b".")).count();
            (left == 0).then_some(())
        });
    }
    let after = fs::read(image.etc("guestd/ssh/authorized_keys/root")).unwrap();
    assert!(after.starts_with(&before), "what was there before is not what it was");
}

#[test]
fn host_keys_are_made_before_the_agent_is_ready_and_anew_with_another_id_of_which_sshd_is_told() {
    let image = Image::installed();
    fs::remove_file(image.etc("ssh/ssh_host_ed25519_key")).unwrap();
    fs::remove_file(image.etc("ssh/ssh_host_ed25519_key.pub")).unwrap();
    let mut agent = start(&image);
    let host_key = || fs::read_to_string(image.etc("ssh/ssh_host_ed25519_key.pub")).unwrap();
    let first = host_key();
    assert_eq!(agent.check("keys")["state"], "ok");

    // In the agent's namespaces, as in a VM.
    let pid = agent.pid().as_raw();
    let mut sshd = Command::new("setpriv");
    sshd.args(["--pdeathsig", "KILL", "nsenter", "--target", &pid.to_string(), "--net", "--mount"]);
    let sshd = sshd.args(["/usr/sbin/sshd", "-D", "-e"]).stderr(Stdio::piped()).spawn();
    let mut sshd = Ended(sshd.unwrap());
    let mut said = BufReader::new(sshd.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|line| line.contains("Server listening on")).unwrap();

    // The same VM again keeps its keys; another one gets its own.
    let inside = Entrance::of(sshd.0.id(), &image);
    agent.stop(Signal::SIGTERM);
    agent.launch(Path::new(PROGRAM), &inside.words());
    assert_eq!(host_key(), first);
    agent.stop(Signal::SIGTERM);
    fs::write(agent.socket().with_file_name("config.toml"), config("b")).unwrap();
    agent.launch(Path::new(PROGRAM), &inside.words());
    assert_ne!(host_key(), first);
    said.find(|line| line.contains("Received SIGHUP; restarting")).unwrap();
    said.find(|line| line.contains("Server listening on")).unwrap();
    assert_eq!(agent.check("keys")["state"], "ok", "{}", log(&image));
    assert_eq!(sources(&agent), ["golden", "vm"]);
}

#[test]
fn an_agent_that_is_not_ready_answers_so_in_short() {
    let image = Image::installed();
    let mut agent = start(&image);
    agent.stop(Signal::SIGTERM);
    // It waits for whoever is at its keys.
    let keys = RootDir::open(&image.etc("guestd/ssh")).unwrap();
    assert!(keys.lock().unwrap());
    let socket = agent.socket().to_owned();
    let (status, said) = thread::scope(|scope| {
        let asked = scope.spawn(move || {
            let mut stream = eventually("it accepts connections", || UnixStream::connect(&socket).ok());
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(request("GET", "/v1/health", "").as_bytes()).unwrap();
            let said = answer(&mut stream);
            drop(keys);
            said
        });
        // By this thread, whose end would be the agent's.
        agent.launch(Path::new(PROGRAM), &Entrance::to(&image).words());
        asked.join().unwrap()
    });
    assert_eq!((status, &said["status"], &said["checks"]), (503, &json!("starting"), &Value::Null), "{said}");
    assert_eq!(said["ready_after_boot_secs"], Value::Null);
    let later = agent.get("/v1/health");
    assert!(later["ready_after_boot_secs"].is_number() && later["checks"].as_array().unwrap().len() > 5, "{later}");
}

/// A process that ends with this value.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
