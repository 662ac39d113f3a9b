//! The commands of the documents: each block has a kind that is listed here, and its commands print what is
//! shown below them.

use std::fs;
use std::process::Command;

use lab::{Daemon, Lab, traffic};
use tempfile::TempDir;

use super::blocks::{blocks, is_shown_as};
use super::documents::{CONFIG_PATH, DAEMON, DOCUMENTS, of_language, path, read, readme_config};

/// A gateway with one open connection, 192.168.7.2:40001 to 198.51.100.1:443, and the README's daemon, with a history.
struct Stage {
    lab: Lab,
    daemon: Daemon,
    directory: TempDir,
    _open: traffic::Connection,
}

impl Stage {
    fn build() -> Self {
        let lab = Lab::builder().build();
        // The package's values.
        lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
        lab.gateway().sysctl("net.netfilter.nf_conntrack_timestamp", "1");
        let directory =
            TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be created");
        let history = directory.path().join("history");
        let audit = directory.path().join("audit.log");
        let (history, audit) = (history.display(), audit.display());
        let history = format!("[history]\npath = {history}\ngateway = gw1\naudit = {audit}\n");
        let daemon = DAEMON.start(lab.gateway(), readme_config() + &history);
        daemon.wait_for_line("the table equals the kernel's");
        let server = lab.listen(lab.server_at(443));
        let open = lab.connect_to(&server, lab.client_at(0, 40001));
        Self { lab, daemon, directory, _open: open }
    }

    /// Runs a command: on the gateway for `#`, on the server for `$`.
    fn run(&self, prompt: char, line: &str) -> (bool, String) {
        let line = line.replace(CONFIG_PATH, &self.daemon.config_path().display().to_string());
        let netns = if prompt == '#' { self.lab.gateway() } else { self.lab.server() };
        let output = netns
            .command("sh")
            .args(["-c", &format!("cd {} && exec 2>&1\n{line}", self.directory.path().display())])
            .env("PATH", path())
            .env("CURL_HOME", self.directory.path())
            .output()
            .expect("sh can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same for a command that does not end by itself: reads as many lines as are shown, while connections come and go.
    fn run_with_traffic(&self, prompt: char, line: &str, lines: usize) -> (bool, String) {
        let begun = self.directory.path().join("header");
        fs::write(
            self.directory.path().join(".curlrc"),
            format!("max-time = 20\ndump-header = \"{}\"\n", begun.display()),
        )
        .expect("curl's settings can be written");
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| self.run(prompt, &format!("{line} | head -n {lines}")));
            lab::wait_until("the stream has begun", || fs::metadata(&begun).is_ok_and(|file| file.len() > 0));
            let server = self.lab.udp_server(self.lab.server_at(443));
            for port in 41000.. {
                if stream.is_finished() {
                    break;
                }
                assert!(port < 41500, "{line}: shows no more than it has");
                let client = self.lab.udp_client(self.lab.client_at(0, port));
                traffic::udp_exchange(&client, &server);
                self.lab.gateway().run("conntrack", &["-D", "-p", "udp"]);
            }
            stream.join().expect("the command can be run")
        })
    }
}

#[test]
fn every_block_has_a_kind_that_is_run() {
    const KINDS: [&str; 12] = [
        "console", "sh", "ini", "systemd", "python", "text",
        // In doc/RECIPES.md, which `recipes` runs.
        "nginx", "haproxy", "lua", "caddy", "apache", "python3",
    ];
    let all = DOCUMENTS.iter().flat_map(|name| blocks(name, &read(name)));
    for block in all {
        assert!(
            KINDS.contains(&block.language.as_str()),
            "{}: found a block of \"{}\", expected one of {KINDS:?}: or add how it is run to tests/docs/main.rs",
            block.place,
            block.language
        );
    }
    for language in &KINDS[6..] {
        let strays: Vec<_> = of_language(language).into_iter().map(|block| block.place).collect();
        assert!(strays.iter().all(|place| place.starts_with("doc/RECIPES.md")), "{language}: {strays:?}");
    }
}

#[test]
fn commands_print_what_is_shown() {
    if !lab::require() {
        return;
    }
    let mut run = 0;
    for name in DOCUMENTS {
        let stage = Stage::build();
        for block in blocks(name, &read(name)).iter().filter(|block| block.language == "console") {
            for command in block.commands() {
                let (prompt, line, shown) = (command.prompt, command.line, command.output);
                let (success, output) = if line.contains("/v1/events") {
                    stage.run_with_traffic(prompt, &line, shown.lines().count())
                } else {
                    stage.run(prompt, &line)
                };
                assert!(success, "{}: {line} fails: {output}", block.place);
                assert!(
                    is_shown_as(&output, &shown),
                    "{}: {line}\n--- shown:\n{shown}--- printed:\n{output}",
                    block.place
                );
                run += 1;
            }
        }
    }
    println!("{run} commands print what the documents show");
}

/// The rows of doc/HTTP.md that show a request: the status, and the body where the row shows it.
#[test]
fn listed_requests_get_the_listed_responses() {
    if !lab::require() {
        return;
    }
    let stage = Stage::build();
    let mut rows = 0;
    let mut wanted = String::new();
    for line in read("doc/HTTP.md").lines().filter(|line| line.starts_with("| `GET /")) {
        let cells: Vec<_> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let request = cells[0].split('`').nth(1).expect("the request is in backticks");
        if cells[1] != "the same" {
            wanted = cells[1].to_owned();
        }
        let path = request.strip_prefix("GET ").expect("it is a GET");
        let answer = lab::http::get(stage.lab.server(), stage.daemon.addr_on(stage.lab.public(0)), path);
        assert!(wanted.starts_with(&answer.status.to_string()), "{line}: the status is {}", answer.status);
        if let Some(body) = wanted.split('`').nth(1) {
            assert_eq!(answer.text().trim_end(), body, "{line}");
        }
        rows += 1;
    }
    assert!(rows >= 7, "only {rows} requests were found");
}

/// The guide's table of containers, with the same namespaces and capabilities but no container.
#[test]
fn containers_behave_as_the_guide_says() {
    if !lab::require() {
        return;
    }
    let guide = read("doc/OPERATIONS.md");
    let lab = Lab::builder().build();
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be created");
    let path = directory.path().join("pynatconnd.conf");
    fs::write(&path, readme_config()).expect("it can be written");
    let no_capability = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let rootless_on_the_host = ["unshare", "--user", "--map-root-user"];
    for (row, words) in [
        ("a user other than root", &no_capability[..]),
        ("rootless, with `--network host`", &rootless_on_the_host[..]),
    ] {
        assert!(
            guide.contains(&format!("| {row} | exit status 77 |")),
            "doc/OPERATIONS.md has no row of {row}"
        );
        let command =
            lab.gateway().command(words[0]).args(&words[1..]).arg(DAEMON.path()).arg("-c").arg(&path);
        let output = command.output().expect("it can be started");
        assert_eq!(output.status.code(), Some(77), "{row}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(guide.contains("| rootless, with its own network namespace that does the NAT | works, "));
    let own = ["unshare", "--user", "--map-root-user", "--net"];
    let daemon = DAEMON.builder(readme_config()).under(own).start(lab.gateway());
    daemon.wait_for_line("the table equals the kernel's");
}

#[test]
fn shown_configurations_give_no_warning() {
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be created");
    let path = directory.path().join("shown.conf");
    for block in of_language("ini") {
        fs::write(&path, &block.text).expect("it can be written");
        let output = Command::new(DAEMON.path()).arg("--check-config").arg("-c").arg(&path).output();
        let output = output.expect("the program can be started");
        let output_text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output_text.is_empty(), "{}: {output_text}", block.place);
    }
}

#[test]
fn shown_unit_additions_are_valid() {
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be created");
    let unit = directory.path().join("pynatconnd.service");
    let additions = directory.path().join("pynatconnd.service.d");
    fs::create_dir(&additions).expect("it can be created");
    fs::write(&unit, read("systemd/pynatconnd.service").replace("/usr/bin/pynatconnd", DAEMON.path()))
        .expect("it can be written");
    for block in of_language("systemd") {
        fs::write(additions.join("override.conf"), &block.text).expect("it can be written");
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
        let output = output.unwrap_or_else(|error| {
            panic!("this test needs systemd-analyze: {error}: `make setup test` installs it")
        });
        let output_text = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<_> = output_text.lines().filter(|line| line.contains("pynatconnd.service")).collect();
        assert!(ours.is_empty(), "{}: {ours:?}", block.place);
    }
}

#[test]
fn the_python_program_finds_the_host() {
    if !lab::require() {
        return;
    }
    let stage = Stage::build();
    for block in of_language("python") {
        let script = stage.directory.path().join("shown.py");
        let calls = [("100.64.2.1", 40001), ("100.64.2.1", 40002), ("203.0.113.9", 40001)];
        let calls = calls.map(|(ip, port)| {
            format!("print(inside_host({{'X-Real-IP': '{ip}', 'X-Real-Port': '{port}'}}))\n")
        });
        fs::write(&script, block.text.clone() + &calls.concat()).expect("it can be written");
        let (success, output) = stage.run('$', &format!("python3 {}", script.display()));
        assert!(success && output == "192.168.7.2\nNone\n203.0.113.9\n", "{}: {output}", block.place);
    }
}
