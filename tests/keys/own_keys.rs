//! A VM's own keys with a real sshd: a VM with another id shows another host key, at once, and sessions go on.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use guestd::{
    api::HostKeyPolicy,
    keys::{KeysTask, OwnKeys, SshdProcesses},
};
use tokio_util::sync::CancellationToken;

use crate::{
    pool::{now, store},
    sshd_rig::{Image, Sshd, run, stdout},
};

/// The host key that sshd shows.
fn shown(sshd: &Sshd) -> String {
    let port = sshd.port.to_string();
    let scan = run(Command::new("ssh-keyscan").args(["-T", "30", "-t", "ed25519", "-p", &port, sshd.address]));
    let (_, key) = stdout(&scan).trim().split_once(' ').map(|(host, key)| (host.to_owned(), key.to_owned())).unwrap();
    key
}

fn on_disk(image: &Image) -> String {
    std::fs::read_to_string(image.etc("ssh/ssh_host_ed25519_key.pub")).unwrap().trim().to_owned()
}

fn processes(pid: i32) -> SshdProcesses {
    Box::new(move || vec![pid])
}

#[test]
fn sshd_shows_the_new_host_key_to_whoever_comes_next_and_sessions_go_on() {
    let image = Image::installed();
    // Guestd's own look is at the tree that it works on.
    std::fs::create_dir_all(image.path("root/usr/sbin")).unwrap();
    std::fs::write(image.path("root/usr/sbin/sshd"), "OpenSSH_9.2p1").unwrap();
    let store = store(&image);
    OwnKeys::new(Box::new(Vec::new)).apply(&store, HostKeyPolicy::Renew, Some("parent"), now()).unwrap();
    let mut sshd = Sshd::start(&image, "127.0.0.1");
    let (pid, parent) = (sshd.pid().unwrap(), shown(&sshd));
    assert_eq!(parent, on_disk(&image));

    let mut session = image.ssh(&sshd);
    let mut session =
        session.arg("echo begun; read word; echo $word").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(session.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "begun");
    let told_of = |keys: &OwnKeys, id: &str| keys.apply(&store, HostKeyPolicy::Renew, Some(id), now()).unwrap();

    let keys = OwnKeys::new(processes(pid));
    let applied = told_of(&keys, "child");
    assert_eq!((applied.host_keys_made, applied.vm_key_made, applied.sshd_told, &applied.note), (true, true, 1, &None));
    sshd.wait_listening();
    let child = shown(&sshd);
    assert!(child == on_disk(&image) && child != parent, "{child} {parent}");
    assert_eq!(sshd.pid(), Some(pid), "{}", sshd.end());

    session.stdin.take().unwrap().write_all(b"ended\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "ended");
    assert!(session.wait().unwrap().success());

    // The same VM again: nothing is made, nobody told.
    let again = told_of(&keys, "child");
    assert_eq!((again.host_keys_made, again.sshd_told), (false, 0));
    assert_eq!(shown(&sshd), child);
}

#[test]
fn a_session_that_listens_for_what_it_forwards_is_no_sshd_to_be_told() {
    let image = Image::installed();
    std::fs::create_dir_all(image.path("root/usr/sbin")).unwrap();
    std::fs::write(image.path("root/usr/sbin/sshd"), "OpenSSH_9.2p1").unwrap();
    let sshd = Sshd::start(&image, "127.0.0.1");
    let mut session = image.ssh(&sshd);
    let mut session =
        session.arg("echo $PPID; read word; echo $word").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(session.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().trim().parse::<i32>().is_ok());
    // All processes of sshd: the one that listens, and those of the session.
    let listener = sshd.pid().unwrap();
    let mut all = vec![listener];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        at += 1;
    }
    assert!(all.len() > 2, "{all:?}");
    let keys = OwnKeys::new(Box::new(move || all.clone()));
    let applied = keys.apply(&store(&image), HostKeyPolicy::Renew, Some("child"), now()).unwrap();
    assert_eq!(applied.sshd_told, 1);
    session.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "still here");
    assert!(session.wait().unwrap().success());
}

#[tokio::test]
async fn what_is_begun_is_done_before_the_task_runs_and_before_any_job() {
    let image = Image::installed();
    std::fs::create_dir_all(image.path("root/usr/sbin")).unwrap();
    std::fs::write(image.path("root/usr/sbin/sshd"), "OpenSSH_9.2p1").unwrap();
    let half = image.etc("guestd/ssh/.vm_ed25519.guestd-tmp-1-1");
    std::fs::write(&half, "half a key").unwrap();
    let (mut task, keys) = KeysTask::new(&image.root(), Box::new(Vec::new)).unwrap();
    let begun = task.begin(HostKeyPolicy::Renew, Some("parent".to_owned()));
    // Nobody runs the task yet.
    let applied = begun.await.unwrap();
    assert!(applied.host_keys_made && applied.vm_key_made && !half.exists());
    let parent = on_disk(&image);

    let begun = task.begin(HostKeyPolicy::Renew, Some("child".to_owned()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    // Asked for at the same time, it comes after it and finds nothing to do.
    let (applied, again) = tokio::join!(begun, keys.apply(HostKeyPolicy::Renew, Some("child".to_owned())));
    assert!(applied.unwrap().host_keys_made && !again.unwrap().host_keys_made);
    assert_ne!(on_disk(&image), parent);
    stop.cancel();
    task.await.unwrap();
}
