//! Thousands of changes and crashes: after each sequence a real sshd accepts exactly the keys that were asked for, and every byte that
//! guestd did not write is where it was.
//!
//! A crash is what a killed agent can leave: of a change of several files some are made, and the next one is half written beside its
//! place. Which steps there are is `RootDir::write`: a temporary file, filled, renamed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use guestd::keys::{KeysError, Store};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    asker::{Asker, MARKER},
    pool::{Pool, home, now, open_to_questions, request, store},
    sshd_rig::{Image, Sshd},
};

/// Over all threads.
const SEQUENCES: usize = 1000;

/// Each with an sshd of its own, which takes some milliseconds for every key that it refuses.
const THREADS: usize = 4;

const USERS: [&str; 2] = ["ada", "bob"];

const SOURCES: [&str; 3] = ["host", "vm", "manual"];

/// How far the clock of the agent that adds a key is back, so that its end can lie between then and now.
const AGO: u64 = 1000;

/// Until when a key is to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Never,
    Later,
    /// Passed by now, and the agent has not looked since.
    Passed,
}

impl End {
    fn seconds(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Later => Some(now() + 3600),
            Self::Passed => Some(now() - AGO / 2),
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Add { user: usize, source: &'static str, key: usize, end: End },
    Remove { user: usize, source: &'static str, key: usize },
    Replace { source: &'static str, keys: Vec<(usize, usize, End)> },
    Expire,
}

/// The agent is killed while it makes a change.
#[derive(Debug, Clone, Copy)]
struct Crash {
    /// Files that were replaced by then.
    files: usize,
    /// Of the next one, tenths that were written.
    tenths: usize,
    /// Whether an agent starts after it, and whether it is asked for the same again.
    restart: bool,
    again: bool,
}

type Step = (Change, Option<Crash>);

fn step(keys: usize) -> impl Strategy<Value = Step> {
    let user = || 0..USERS.len();
    let source = || select(SOURCES.to_vec());
    let end = || select(vec![End::Never, End::Never, End::Later, End::Passed]);
    let change = prop_oneof![
        5 => (user(), source(), 0..keys, end()).prop_map(|(user, source, key, end)| Change::Add { user, source, key, end }),
        3 => (user(), source(), 0..keys).prop_map(|(user, source, key)| Change::Remove { user, source, key }),
        2 => (source(), vec((user(), 0..keys, end()), 0..5)).prop_map(|(source, keys)| Change::Replace { source, keys }),
        1 => Just(Change::Expire),
    ];
    let crash = (0..3_usize, 0..=10_usize, any::<bool>(), any::<bool>())
        .prop_map(|(files, tenths, restart, again)| Crash { files, tenths, restart, again });
    (change, option::weighted(0.4, crash))
}

/// Lines of somebody's own in a managed file, and the keys that they open the account with.
fn foreign(pool: &Pool) -> impl Strategy<Value = (Vec<u8>, BTreeSet<usize>)> + use<> {
    let plain = |number: usize| pool.line(number).to_owned();
    let options: Vec<(String, Option<usize>)> = vec![
        (String::new(), None),
        ("# a comment".to_owned(), None),
        (plain(0), Some(0)),
        (format!("{} by hand", plain(1)), Some(1)),
        (format!("\t restrict,command=\"a \\\"b\\\"\"  {}\t", plain(2)), Some(2)),
        (format!("expiry-time=\"20010101\" {}", plain(3)), None),
        (format!("from=\"192.0.2.1\" {}", plain(4)), None),
        (format!("nonsense {}", plain(5)), None),
        (format!("cert-authority {}", plain(5)), None),
        ("ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29t c".to_owned(), None),
        ("ssh-mldsa44@openssh.com AAAAF3NzaC1tbGRzYTQ0QG9wZW5zc2guY29t of a type to come".to_owned(), None),
        ("ssh-ed25519 AAAA truncated".to_owned(), None),
    ];
    let line = (select(options), select(vec!["\n", "\r\n"]));
    (vec(line, 0..4), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text: String = lines.iter().map(|((line, _), end)| format!("{line}{end}")).collect();
        if !ended {
            text.truncate(text.trim_end_matches(['\r', '\n']).len());
        }
        (text.into_bytes(), lines.iter().filter_map(|((_, key), _)| *key).collect())
    })
}

/// What should be in the managed files, by user.
type Model = [BTreeMap<(&'static str, usize), End>; USERS.len()];

struct World {
    image: Image,
    sshd: Sshd,
    askers: [Asker; USERS.len()],
    pool: Pool,
    store: Store,
    model: Model,
}

impl World {
    fn new() -> Self {
        let (image, pool) = (Image::installed(), Pool::new());
        open_to_questions(&image, &USERS);
        for user in USERS {
            fs::write(own_file(&image, user), own_lines(&pool)).unwrap();
        }
        let (sshd, store) = (Sshd::start(&image, "127.0.0.1"), store(&image));
        let askers = USERS.map(|user| Asker::new(&pool, user));
        Self { image, sshd, askers, pool, store, model: Model::default() }
    }

    fn managed(&self, user: &str) -> PathBuf {
        self.image.etc("guestd/ssh/authorized_keys").join(user)
    }

    fn files(&self) -> BTreeMap<&'static str, Option<Vec<u8>>> {
        USERS.iter().map(|user| (*user, fs::read(self.managed(user)).ok())).collect()
    }

    /// Asks the store for a change.
    fn ask(&self, change: &Change) -> Result<(), KeysError> {
        let ago = now() - AGO;
        match change {
            Change::Add { user, source, key, end } => {
                self.store.add(&request(USERS[*user], source, self.pool.line(*key), end.seconds()), ago).map(drop)
            }
            Change::Remove { user, source, key } => {
                let (listed, problems) = self.store.list();
                assert_eq!(problems, Vec::<String>::new());
                let line = self.pool.line(*key);
                let is_it = |it: &&guestd::api::AuthorizedKey| {
                    it.user == USERS[*user] && it.source == *source && line.starts_with(&it.key.key)
                };
                match listed.iter().find(is_it) {
                    Some(key) => self.store.remove(&key.id).map(drop),
                    None => Ok(()),
                }
            }
            Change::Replace { source, keys } => {
                let keys = keys.iter().map(|(user, key, end)| self.pool.new_key(USERS[*user], *key, end.seconds()));
                self.store.replace_source(source, &keys.collect::<Vec<_>>(), ago)
            }
            Change::Expire => self.store.expire(now()).map(drop),
        }
    }

    /// What the change comes to.
    fn changed(&self, change: &Change) -> Model {
        let mut model = self.model.clone();
        match change {
            Change::Add { user, source, key, end } => drop(model[*user].insert((*source, *key), *end)),
            Change::Remove { user, source, key } => drop(model[*user].remove(&(*source, *key))),
            Change::Replace { source, keys } => {
                model.iter_mut().for_each(|keys| keys.retain(|(of, _), _| of != source));
                for (user, key, end) in keys {
                    model[*user].insert((*source, *key), *end);
                }
            }
            Change::Expire => model.iter_mut().for_each(|keys| keys.retain(|_, end| *end != End::Passed)),
        }
        model
    }

    fn make(&mut self, (change, crash): &Step) {
        let after = self.changed(change);
        let before = self.files();
        self.ask(change).unwrap();
        let Some(crash) = crash else { return self.model = after };

        // Back to where the killed agent got: files are changed one after the other, in the order of their names.
        let whole = self.files();
        let changed: Vec<_> = (0..USERS.len()).filter(|user| before[USERS[*user]] != whole[USERS[*user]]).collect();
        let (done, not_done) = changed.split_at(crash.files.min(changed.len()));
        for user in not_done {
            let path = self.managed(USERS[*user]);
            match &before[USERS[*user]] {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        if let Some(user) = not_done.first() {
            let content = whole[USERS[*user]].clone().unwrap_or_default();
            let part = &content[..content.len() * crash.tenths / 10];
            fs::write(self.managed(&format!(".{}.guestd-tmp-4711-0", USERS[*user])), part).unwrap();
        }
        for user in done {
            self.model[*user] = after[*user].clone();
        }
        if crash.restart {
            self.store = store(&self.image);
            self.store.sweep().unwrap();
            let names = fs::read_dir(self.managed("")).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(
                !names.into_iter().any(|name| name.as_encoded_bytes().starts_with(b".")),
                "a half-written file is left"
            );
        }
        if crash.again {
            let after = self.changed(change);
            self.ask(change).unwrap();
            self.model = after;
        }
    }

    fn run(&mut self, foreign: &[(Vec<u8>, BTreeSet<usize>)], steps: &[Step]) {
        fs::remove_dir_all(self.managed("")).unwrap();
        fs::create_dir(self.managed("")).unwrap();
        self.model = Model::default();
        for (user, (content, _)) in USERS.iter().zip(foreign) {
            fs::write(self.managed(user), content).unwrap();
        }
        steps.iter().for_each(|step| self.make(step));

        for (number, user) in USERS.iter().enumerate() {
            let (content, opened) = &foreign[number];
            let mut expected = opened.clone();
            // By the user's own file.
            expected.insert(MARKER);
            expected
                .extend(self.model[number].iter().filter(|(_, end)| **end != End::Passed).map(|((_, key), _)| *key));
            let file = fs::read(self.managed(user)).unwrap_or_default();
            let shown = String::from_utf8_lossy(&file);
            assert_eq!(self.askers[number].ask(&self.sshd), expected, "{user} after {steps:?}:\n{shown}");
            let theirs = without_marks(&file);
            let ended = [&content[..], b"\n"].concat();
            let is_whole = theirs == *content || (!content.ends_with(b"\n") && theirs == ended);
            assert!(is_whole, "{user}'s lines are not what they were after {steps:?}:\n{shown}");
            assert_eq!(fs::read(own_file(&self.image, user)).unwrap(), own_lines(&self.pool).into_bytes());
        }
    }
}

fn own_file(image: &Image, user: &str) -> PathBuf {
    home(image, user).join(".ssh/authorized_keys")
}

/// A user's own file, which nobody but the user writes.
fn own_lines(pool: &Pool) -> String {
    format!("# mine\r\nrestrict {} mine\r\nnonsense", pool.line(MARKER))
}

/// What guestd did not write.
fn without_marks(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    let is_theirs = |line: &&[u8]| !line.windows(15).any(|window| window == b"[guestd source=");
    lines.filter(is_theirs).flatten().copied().collect()
}

#[test]
fn after_any_sequence_of_changes_and_crashes_sshd_accepts_exactly_the_keys_that_were_asked_for() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut world = World::new();
                // The same each time, and another for each thread.
                let seed = [u8::try_from(thread).unwrap(); 32];
                let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
                let mut runner = TestRunner::new_with_rng(Config::default(), rng);
                let lines = foreign(&world.pool);
                let files = (foreign(&world.pool), lines).prop_map(|(ada, bob)| [ada, bob]);
                let sequences = (files, vec(step(world.pool.len()), 1..10));
                for _ in 0..SEQUENCES / THREADS {
                    let (files, steps) = sequences.new_tree(&mut runner).unwrap().current();
                    world.run(&files, &steps);
                }
                world.askers.iter_mut().for_each(Asker::end);
            });
        }
    });
}
