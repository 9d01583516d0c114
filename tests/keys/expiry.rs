//! Keys that expire: by sshd itself, whether an agent runs or not, in every time zone and for every version of sshd; and by the task, which
//! takes them out.

use std::{
    env, fs,
    process::Command,
    time::{Duration, Instant},
};

use guestd::keys::KeysTask;
use tokio_util::sync::CancellationToken;

use crate::{
    pool::{Pool, now, open_to_questions, request, set, store},
    sshd_rig::{Image, Sshd},
    support::{DEADLINE, eventually},
};

#[test]
fn without_an_agent_sshd_refuses_a_key_when_its_time_has_come() {
    let (image, pool) = (Image::installed(), Pool::new());
    open_to_questions(&image, &["ada"]);
    let (store, sshd) = (store(&image), Sshd::start(&image, "127.0.0.1"));
    // Long enough to be asked for once before, on a busy machine.
    let end = now() + 10;
    store.add(&request("ada", "manual", pool.line(0), Some(end)), now()).unwrap();
    store.add(&request("ada", "manual", pool.line(1), Some(now() + 3600)), now()).unwrap();
    assert_eq!(pool.accepted(&sshd, "ada"), set(&[0, 1]));
    eventually("sshd refuses the key", || (pool.accepted(&sshd, "ada") == set(&[1])).then_some(()));
    assert!(now() > end, "it was refused before its time");
}

/// What the library and sshd take for the time zone, they take from here. The library reads it once in a process, so that each zone
/// gets one.
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "Pacific/Auckland", "America/St_Johns"];

/// Tells this test's own process for one zone.
const IN_ZONE: &str = "GUESTD_TEST_IN_ZONE";

#[test]
fn an_sshd_that_knows_no_utc_is_told_the_time_in_its_own_zone() {
    if env::var_os(IN_ZONE).is_some() {
        return in_this_zone();
    }
    for zone in ZONES {
        assert!(fs::exists(format!("/usr/share/zoneinfo/{zone}")).unwrap(), "install Debian's package tzdata");
        let mut test = Command::new(env::current_exe().unwrap());
        test.env("TZ", zone)
            .env(IN_ZONE, "")
            .args(["--exact", "expiry::an_sshd_that_knows_no_utc_is_told_the_time_in_its_own_zone"]);
        let output = test.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{zone}: {said}");
    }
}

fn in_this_zone() {
    let (image, pool) = (Image::installed(), Pool::new());
    open_to_questions(&image, &["ada"]);
    // The sshd that runs knows both ways; the one that is said to be there does not.
    fs::create_dir_all(image.path("root/usr/sbin")).unwrap();
    fs::write(image.path("root/usr/sbin/sshd"), "OpenSSH_8.9p1").unwrap();
    let store = store(&image);
    let ends = [now() - 60, now() + 120, now() - 86_400, now() + 86_400];
    for (number, end) in ends.into_iter().enumerate() {
        store.add(&request("ada", "manual", pool.line(number), Some(end)), now() - 100_000).unwrap();
    }
    let file = fs::read_to_string(image.etc("guestd/ssh/authorized_keys/ada")).unwrap();
    assert!(file.lines().all(|line| line.starts_with("expiry-time=\"2") && !line.contains("Z\"")), "{file}");
    let sshd = Sshd::start(&image, "127.0.0.1");
    assert_eq!(pool.accepted(&sshd, "ada"), set(&[1, 3]), "{file}");
    let (listed, _) = store.list();
    let listed = listed.iter().filter(|key| key.user == "ada");
    assert_eq!(listed.map(|key| key.expires).collect::<Vec<_>>(), ends.map(Some));
    assert_eq!(store.expire(now()).unwrap(), Some(ends[1]));
}

#[tokio::test]
async fn the_task_takes_out_what_has_expired_and_nothing_else() {
    let (image, pool) = (Image::installed(), Pool::new());
    open_to_questions(&image, &["ada"]);
    let file = image.etc("guestd/ssh/authorized_keys/ada");
    fs::write(&file, format!("expiry-time=\"20010101\" {} by hand\n", pool.line(0))).unwrap();
    let theirs = fs::read(&file).unwrap();
    let (task, keys) = KeysTask::new(&image.root(), Box::new(Vec::new)).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let end = now() + 2;
    for number in [1, 2] {
        keys.add(request("ada", "manual", pool.line(number), Some(end))).await.unwrap();
    }
    keys.add(request("root", "manual", pool.line(3), Some(end + 3600))).await.unwrap();
    let give_up = Instant::now() + DEADLINE;
    while fs::read(&file).unwrap() != theirs {
        assert!(Instant::now() < give_up, "expired keys are still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(now() >= end, "they went before their time");
    let left: Vec<_> = keys.list().await.unwrap().authorized.iter().map(|key| key.source.clone()).collect();
    assert_eq!(left, ["file", "golden", "manual"]);
    assert_eq!(keys.trouble(), guestd::keys::Trouble::default());
    stop.cancel();
    task.await.unwrap();
    assert!(keys.list().await.is_err(), "the task has ended");
}
