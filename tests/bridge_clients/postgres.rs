//! A PostgreSQL of the test's own, as an unprivileged user, on 0.0.0.0 and on a Unix socket in the test's directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::Command,
};

use crate::{
    program::{Program, client, program_of_nobody, stdout, text},
    support::eventually,
    world::World,
};

pub(crate) const PORT: u16 = 5432;

/// Ends with this value.
pub(crate) struct Postgres {
    pub(crate) program: Program,
    dir: PathBuf,
}

impl Postgres {
    /// `hba` says who is let in over TCP.
    pub(crate) fn start(world: &World, hba: &str) -> Self {
        let dir = world.path("postgres");
        fs::create_dir(&dir).unwrap();
        // initdb and the server want it to be theirs alone; psql comes as root.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&dir, Some(65534), Some(65534)).unwrap();
        let data = dir.join("data");
        let mut initdb = program_of_nobody("initdb");
        initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=test", "--pgdata"]);
        stdout(initdb.arg(&data));
        fs::write(data.join("pg_hba.conf"), format!("local all all trust\n{hba}")).unwrap();
        let mut command = program_of_nobody("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(&dir);
        for setting in ["listen_addresses=0.0.0.0", &format!("port={PORT}"), "fsync=off", "shared_buffers=16MB"] {
            command.arg("-c").arg(setting);
        }
        let program = world.serve(command, PORT);
        let postgres = Self { program, dir };
        eventually("PostgreSQL accepts connections", || {
            postgres.program.assert_running();
            let ready = client("pg_isready").args(["-q", "-U", "test", "-h"]).arg(&postgres.dir).status().unwrap();
            ready.success().then_some(())
        });
        postgres
    }

    /// What a question has as its answer, asked past the network.
    pub(crate) fn ask(&self, question: &str) -> String {
        text(psql(&self.dir.display().to_string()).args(["-c", question])).trim_end().to_owned()
    }
}

/// psql to a host, in its plainest format; what to do is to be added.
pub(crate) fn psql(host: &str) -> Command {
    let mut command = client("psql");
    command.args(arguments(host));
    command
}

/// Its arguments.
pub(crate) fn arguments(host: &str) -> Vec<String> {
    let connection = format!("host={host} port={PORT} user=test dbname=postgres sslmode=disable connect_timeout=60");
    ["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-d", &connection].map(str::to_owned).into()
}
