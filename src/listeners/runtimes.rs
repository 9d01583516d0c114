//! Runtimes that people start services with, how each is recognised, and what makes it listen on IPv6 too.
//!
//! The table is data and [`recognise`] is a pure function of what proc(5) says of a process. What is not sure is not
//! recognised: the general advice is right for everything, and exact advice for the wrong program is worse than that. Each
//! fix is about the next start of the service; nothing here acts on it.

/// A program, or a family of programs that are told where to listen in the same way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    /// As its users write it.
    pub(super) name: &'static str,
    /// Names that tell it: of the program, the script that an interpreter runs, or the module after `-m`.
    names: &'static [&'static str],
    /// Parts of the path of the program or script that tell it, too.
    paths: &'static [&'static str],
    /// One of these has to be among the arguments; none are needed where it is empty.
    arguments: &'static [&'static str],
    /// What to do about a bind to IPv4 addresses alone. `{port}` stands for the listener's port.
    wildcard: &'static str,
    /// What to do about a bind to loopback. `None`: it is not to be public, and nothing is told that would make it so.
    loopback: Option<&'static str>,
}

impl Runtime {
    /// What to do so that it listens on IPv6 where it listens on IPv4 now.
    pub(super) fn fix(&self, port: u16) -> String {
        fill(self.wildcard, port)
    }

    /// What to do so that it no longer listens on loopback alone; `None` for what should stay private.
    pub(super) fn fix_of_loopback(&self, port: u16) -> Option<String> {
        self.loopback.map(|fix| fill(fix, port))
    }

    const fn paths(self, paths: &'static [&'static str]) -> Self {
        Self { paths, ..self }
    }

    const fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }
}

fn fill(fix: &str, port: u16) -> String {
    fix.replace("{port}", &port.to_string())
}

/// Listens where it is told to, by the same means in both cases.
const fn same(name: &'static str, names: &'static [&'static str], fix: &'static str) -> Runtime {
    Runtime { name, names, paths: &[], arguments: &[], wildcard: fix, loopback: Some(fix) }
}

/// Needs other words when it is bound to loopback; without any it should stay there.
const fn each(
    name: &'static str,
    names: &'static [&'static str],
    wildcard: &'static str,
    loopback: Option<&'static str>,
) -> Runtime {
    Runtime { name, names, paths: &[], arguments: &[], wildcard, loopback }
}

/// The first that fits counts, so tools come before the interpreters that run them.
///
/// Not all read `::` alike: asyncio, tornado and MariaDB make it an IPv6-only socket, so uvicorn, Jupyter and MySQL are told
/// otherwise to listen on both; uvicorn makes its socket in another way when it has several processes, and takes `''` for
/// IPv4 then. Deno wants brackets where others refuse them.
const RUNTIMES: &[Runtime] = &[
    same("Vite", &["vite"], "run `vite --host ::`, or set `server.host: '::'` in its configuration")
        .paths(&["node_modules/vite/"]),
    same("Next.js", &["next", "next-server"], "run `next dev -H ::` or `next start -H ::`")
        .paths(&["node_modules/next/"]),
    same(
        "webpack-dev-server",
        &["webpack", "webpack-dev-server"],
        "run `webpack serve --host ::`, or set `devServer.host: '::'` in its configuration",
    ),
    same("Flask", &["flask"], "run `flask run --host :: --port {port}`").with(&["run"]),
    same("Django", &["manage.py", "django-admin", "django"], "run `manage.py runserver '[::]:{port}'`")
        .with(&["runserver"]),
    same("uvicorn", &["uvicorn"], "run it with `--host ''`, or with `--host ::` if it has --workers or --reload"),
    same("gunicorn", &["gunicorn"], "run it with `-b '[::]:{port}'`"),
    same("Hypercorn", &["hypercorn"], "run it with `-b '[::]:{port}'`"),
    same("http.server", &["http.server"], "run `python3 -m http.server --bind :: {port}`"),
    same("Streamlit", &["streamlit"], "run it with `--server.address ::`"),
    each(
        "Jupyter",
        &["jupyter", "jupyter-lab", "jupyter-notebook", "jupyter-server", "jupyterlab", "notebook"],
        "run it with `--ip '*'`",
        Some("run it with `--ip '*'`, and with a token or password: it runs any code it is sent"),
    ),
    same("Rails", &["rails"], "run `rails server -b :: -p {port}`").with(&["server", "s"]),
    same("Puma", &["puma"], "run `puma -b 'tcp://[::]:{port}'`, in Rails `rails server -b :: -p {port}`"),
    same("PHP", &["php"], "run `php -S '[::]:{port}'`").with(&["-S"]),
    same(
        "the Go program",
        &[],
        "call `net.Listen(\"tcp\", \":{port}\")` or `http.ListenAndServe(\":{port}\", …)`, without a host",
    )
    .paths(&["/b001/exe/"]),
    each(
        "Java",
        &["java"],
        "start it without `-Djava.net.preferIPv4Stack=true`; in Spring Boot, set `server.address=::`",
        Some("in Spring Boot set `server.address=::`; elsewhere bind `new InetSocketAddress({port})`, without a host"),
    ),
    same(".NET", &["dotnet"], "set `ASPNETCORE_URLS=http://[::]:{port}`, or run it with `--urls http://[::]:{port}`")
        .paths(&["/bin/Debug/net", "/bin/Release/net"]),
    each(
        "nginx",
        &["nginx"],
        "add `listen [::]:{port};` beside `listen {port};` in the server block",
        Some("put `listen {port};` and `listen [::]:{port};` into the server block"),
    ),
    same("Apache", &["apache2", "apache", "httpd"], "write `Listen {port}`, without an address"),
    each(
        "Caddy",
        &["caddy"],
        "remove `bind` and `default_bind`, or write `bind ::`",
        Some("name the site `:{port}`, and remove `bind` and `default_bind`"),
    ),
    each(
        "PostgreSQL",
        &["postgres", "postmaster"],
        "set `listen_addresses = '*'`; if it is not meant to be public, `'localhost'`",
        None,
    ),
    each(
        "MySQL",
        &["mysqld", "mariadbd"],
        "set `bind-address = *`; if it is not meant to be public, `127.0.0.1`",
        None,
    ),
    each(
        "Redis",
        &["redis-server", "valkey-server"],
        "set `bind * -::*`; if it is not meant to be public, `bind 127.0.0.1`",
        None,
    ),
    each(
        "MongoDB",
        &["mongod", "mongos"],
        "run it with `--ipv6 --bind_ip_all`; if it is not meant to be public, `--bind_ip localhost`",
        None,
    ),
    // What publishes containers' ports.
    same("Docker", &["docker-proxy"], "publish the container's port as `-p {port}:PORT`, without an address"),
    same(
        "podman",
        &["conmon", "rootlessport", "rootlessport-child"],
        "publish the container's port as `-p '[::]:{port}:PORT'`",
    ),
    same("Deno", &["deno"], "pass `hostname: \"::\"` to `Deno.serve`, or run `deno serve --host '[::]' --port {port}`"),
    same("Bun", &["bun"], "pass `hostname: \"::\"` to `Bun.serve`"),
    same("Node.js", &["node", "nodejs"], "call `server.listen({port}, '::')`, in Express `app.listen({port}, '::')`"),
];

/// The runtime of a process with this name (comm of proc(5)) and command line.
pub(super) fn recognise(name: &str, command: &str) -> Option<&'static Runtime> {
    let words: Vec<&str> = command.split_whitespace().collect();
    // A title that the process gave itself need not name the program, and there may be no command line.
    of_words(&words).or_else(|| of_words(&[name.split(' ').next()?]))
}

fn of_words(words: &[&str]) -> Option<&'static Runtime> {
    let (program, arguments) = words.split_first()?;
    // `nginx: master process` is a title; `php8.2` and `python3.11` are versions of one program.
    let name = base(program).trim_end_matches(':');
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (script, arguments) = script(name, arguments).unwrap_or(("", arguments));
    RUNTIMES.iter().find(|runtime| {
        let is_named = |name: &str| runtime.names.contains(&name);
        let is_on_path = |path: &str| runtime.paths.iter().any(|part| path.contains(part));
        (is_named(name) || is_named(base(script)) || is_on_path(program) || is_on_path(script))
            && (runtime.arguments.is_empty() || arguments.iter().any(|word| runtime.arguments.contains(word)))
    })
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What an interpreter runs, a file or a module, and the arguments after it.
fn script<'a>(interpreter: &str, arguments: &'a [&'a str]) -> Option<(&'a str, &'a [&'a str])> {
    let is_python = matches!(interpreter, "python" | "pypy");
    if !is_python && !matches!(interpreter, "node" | "nodejs" | "ruby" | "bun" | "deno") {
        return None;
    }
    let mut words = arguments.iter().enumerate();
    while let Some((index, word)) = words.next() {
        match *word {
            // Code, not a file.
            "-c" | "-e" | "-p" | "--eval" | "--print" => return None,
            "-m" if is_python => {}
            "run" | "x" if matches!(interpreter, "bun" | "deno") => {}
            // Options whose value is the next word.
            "-r" | "--require" | "--import" | "--loader" | "-X" | "-W" => _ = words.next(),
            option if option.starts_with('-') => {}
            script => return Some((script, &arguments[index + 1..])),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, command: &str) -> Option<&'static str> {
        recognise(name, command).map(|runtime| runtime.name)
    }

    #[test]
    fn command_lines_tell_the_runtime() {
        for (runtime, commands) in [
            (
                "Vite",
                &["node /app/node_modules/.bin/vite --host", "node node_modules/vite/bin/vite.js", "bun run vite"][..],
            ),
            ("Next.js", &["next-server (v15.1.0)   ", "node /app/node_modules/next/dist/server/lib/start-server.js"]),
            ("webpack-dev-server", &["webpack        ", "node /app/node_modules/.bin/webpack serve"]),
            ("Flask", &["/usr/bin/python3 /usr/local/bin/flask --app web run", "python3.11 -m flask run -p 5000"]),
            ("Django", &["python manage.py runserver 8000", "/venv/bin/python -Wd ./manage.py runserver"]),
            ("uvicorn", &["python3 -m uvicorn app:app", "/usr/bin/python3 -X dev /usr/local/bin/uvicorn app:app"]),
            ("gunicorn", &["/usr/bin/python3 /usr/local/bin/gunicorn app:app", "gunicorn: master [app]"]),
            ("Hypercorn", &["/venv/bin/python3 /venv/bin/hypercorn app:app"]),
            ("http.server", &["python3 -u -m http.server 8000"]),
            ("Streamlit", &["/usr/bin/python3 /usr/bin/streamlit run app.py", "python -m streamlit run app.py"]),
            ("Jupyter", &["/usr/bin/python3 /usr/bin/jupyter-lab --port 8888", "python3 -m notebook"]),
            ("Rails", &["ruby bin/rails server -p 3000", "/usr/bin/ruby3.1 bin/rails s"]),
            ("Puma", &["puma 6.4.2 (tcp://0.0.0.0:3000) [app]", "puma: cluster worker 0: 7 [app]", "ruby /bin/puma"]),
            ("PHP", &["php -S 0.0.0.0:8000", "/usr/bin/php8.2 -n -S localhost:8000 -t public"]),
            ("the Go program", &["/tmp/go-build3912/b001/exe/main -v"]),
            ("Java", &["/usr/lib/jvm/17/bin/java -jar app.jar", "java -cp /app Main"]),
            (".NET", &["dotnet /app/Web.dll", "/src/Web/bin/Debug/net8.0/Web"]),
            ("nginx", &["nginx: master process /usr/sbin/nginx -g daemon off;"]),
            ("Apache", &["/usr/sbin/apache2 -k start", "httpd -DFOREGROUND"]),
            ("Caddy", &["/usr/bin/caddy run --config /etc/caddy/Caddyfile"]),
            ("PostgreSQL", &["/usr/lib/postgresql/15/bin/postgres -D /data", "postgres: checkpointer "]),
            ("MySQL", &["/usr/sbin/mysqld", "/usr/sbin/mariadbd --user=mysql"]),
            ("Redis", &["redis-server 127.0.0.1:6379", "/usr/bin/redis-server *:6379"]),
            ("MongoDB", &["/usr/bin/mongod --config /etc/mongod.conf"]),
            ("Docker", &["/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 80"]),
            ("podman", &["/usr/bin/conmon --api-version 1 -c 3f", "rootlessport", "rootlessport-child"]),
            ("Deno", &["deno run -A main.ts", "deno serve --port 8000 main.ts"]),
            ("Bun", &["bun run index.ts", "/root/.bun/bin/bun index.ts"]),
            ("Node.js", &["node server.js", "/usr/bin/node --require ./trace.js ./bin/www", "node -e require('http')"]),
        ] {
            for command in commands {
                assert_eq!(named("main", command), Some(runtime), "{command}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_runtime_is_not_taken_for_one() {
        for command in [
            "",
            "python3 /home/vite/app.py",
            "vim vite.config.js",
            "python3 -c import uvicorn",
            "python3 app.py flask run",
            "flask shell",
            "python manage.py shell",
            "php-fpm: pool www",
            "php artisan queue:work",
            "ruby bin/rails console",
            "/home/node/server",
            "/opt/nginx/exporter",
            "nginx-exporter --port 9113",
            "postgres_exporter",
            "redis-sentinel *:26379",
            "/home/go-build/server",
            "./java.py",
            "sh -c vite",
        ] {
            assert_eq!(named("main", command), None, "{command}");
        }
        for command in
            ["node /srv/vite.config.js", "node /app/node_modules/.bin/webpack-bundle-analyzer", "node next.js"]
        {
            assert_eq!(named("node", command), Some("Node.js"), "{command}");
        }
    }

    #[test]
    fn a_process_with_a_title_of_its_own_is_told_by_its_name() {
        assert_eq!(named("node", "my shop"), Some("Node.js"));
        assert_eq!(named("nginx", ""), Some("nginx"));
        assert_eq!(named("", ""), None);
    }

    #[test]
    fn every_fix_is_one_line_with_the_port_filled_in() {
        for runtime in RUNTIMES {
            let fixes = [Some(runtime.fix(65535)), runtime.fix_of_loopback(65535)];
            for fix in fixes.into_iter().flatten() {
                assert!(!fix.is_empty() && fix.chars().count() <= 160, "{}: {fix}", runtime.name);
                assert!(!fix.contains(['{', '}', '\n']), "{}: {fix}", runtime.name);
                assert_eq!(fix.matches('`').count() % 2, 0, "{}: {fix}", runtime.name);
            }
            assert!(!runtime.names.is_empty() || !runtime.paths.is_empty());
        }
        assert_eq!(recognise("x", "gunicorn: master [a]").unwrap().fix(8000), "run it with `-b '[::]:8000'`");
    }

    #[test]
    fn databases_and_only_they_are_kept_private() {
        let private: Vec<_> =
            RUNTIMES.iter().filter(|runtime| runtime.loopback.is_none()).map(|runtime| runtime.name).collect();
        assert_eq!(private, ["PostgreSQL", "MySQL", "Redis", "MongoDB"]);
    }
}
