//! What README.md and the guides show is run: each block of theirs is of a kind that is listed here, and what is
//! typed in it prints what stands below. What cannot be run is in one table, with the reason and what is
//! checked instead. And links lead somewhere, and each warning of the log is explained.

mod blocks;
#[path = "../lab/mod.rs"]
mod lab;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blocks::{Block, blocks, is_shown_as, prose};
use lab::{Daemon, Lab, traffic};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_pynatconnd");
const CONFIG_PATH: &str = "/etc/pynatconnd.conf";

/// The documents whose blocks are run.
const RUN: [&str; 4] = ["README.md", "doc/OPERATIONS.md", "doc/HTTP.md", "doc/monitoring/README.md"];

/// What is checked of a line that is not typed, or of a text.
type Check<T> = fn(&T);

/// Lines of `sh` blocks that are not typed here: how they begin, why not, and what is checked instead.
#[rustfmt::skip]
const NOT_RUN: &[(&str, &str, Check<str>)] = &[
    ("make ", "builds for minutes, or is what runs this", names_a_target_and_its_package),
    ("sudo apt install ", "changes the machine", names_a_package),
    ("sudo dnf install ", "changes a machine of another distribution", names_a_package),
    ("sudo systemctl ", "needs systemd and the package installed", names_the_unit),
    ("systemctl status ", "needs systemd and the package installed", names_the_unit),
    ("journalctl -u ", "needs systemd and the package installed", names_the_unit),
    ("sudoedit ", "waits for somebody who types", names_the_file),
    ("docker run ", "needs an image; its capabilities are tried without", runs_with_the_capabilities),
    ("podman run ", "needs an image; its capabilities are tried without", runs_with_the_capabilities),
    ("setpriv ", "runs until it is told to end", runs_the_daemon),
    ("ip netns exec gateway ", "runs until it is told to end", runs_the_daemon),
];

/// `text` blocks: what they contain, and what holds them.
const TEXTS: &[(&str, Check<Block>)] = &[
    ("Who is that? The server asks the gateway:", is_what_the_demo_prints),
    ("src/daemon.rs", names_what_exists),
    ("define command {", has_options_that_exist),
    ("object CheckCommand", has_options_that_exist),
];

fn read(name: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn exists(name: &str) -> bool {
    Path::new(ROOT).join(name).exists()
}

/// The file that README.md shows first.
fn readme_config() -> String {
    let all = blocks("README.md", &read("README.md"));
    let block = all.into_iter().find(|block| block.language == "ini");
    block.expect("README.md has an ini block").text
}

/// The blocks of a language in all documents.
fn of_language(language: &str) -> Vec<Block> {
    let all = RUN.iter().flat_map(|name| blocks(name, &read(name)));
    all.filter(|block| block.language == language).collect()
}

/// The path with the programs of the build before all others.
fn path() -> String {
    let build = Path::new(PROGRAM).parent().expect("it lies in a directory").display();
    format!("{build}:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A gateway with one open connection, 192.168.7.2:40001 to 198.51.100.1:443, and the README's daemon.
struct Stage {
    lab: Lab,
    daemon: Daemon,
    directory: TempDir,
    _open: traffic::Connection,
}

impl Stage {
    fn build() -> Self {
        let lab = Lab::builder().build();
        // As the package sets them.
        lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
        lab.gateway().sysctl("net.netfilter.nf_conntrack_timestamp", "1");
        let daemon = Daemon::start(lab.gateway(), readme_config());
        daemon.wait_for_line("the table equals the kernel's");
        let server = lab.listen(lab.server_at(443));
        let open = lab.connect_to(&server, lab.client_at(0, 40001));
        let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be made");
        Self { lab, daemon, directory, _open: open }
    }

    /// Types a command: on the gateway at `#`, on the server at `$`.
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

    /// The same for what never ends by itself: as many lines as are shown, while flows come and go.
    fn run_with_traffic(&self, prompt: char, line: &str, lines: usize) -> (bool, String) {
        let begun = self.directory.path().join("header");
        fs::write(self.directory.path().join(".curlrc"), format!("dump-header = \"{}\"\n", begun.display()))
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
fn every_block_is_of_a_kind_that_is_run() {
    const KINDS: [&str; 7] = ["console", "sh", "ini", "systemd", "nginx", "python", "text"];
    let all = RUN.iter().flat_map(|name| blocks(name, &read(name)));
    for block in all {
        assert!(
            KINDS.contains(&block.language.as_str()),
            "{}: found a block of \"{}\", expected one of {KINDS:?}: or add how it is run to tests/docs",
            block.place,
            block.language
        );
    }
    // tests/nginx.rs runs the guide's first one.
    let recipes = of_language("nginx");
    assert!(recipes.len() == 1 && recipes[0].place.starts_with("doc/OPERATIONS.md"), "one nginx recipe");
}

#[test]
fn commands_print_what_is_shown() {
    if !lab::require() {
        return;
    }
    let mut run = 0;
    for name in RUN {
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

#[test]
fn what_is_not_run_is_listed_and_checked() {
    if !lab::require() {
        return;
    }
    for block in of_language("sh") {
        for line in block.text.lines() {
            let listed = NOT_RUN.iter().find(|(begin, ..)| line.starts_with(begin));
            let (_, why, check) = listed.unwrap_or_else(|| {
                panic!("{}: \"{line}\" is not listed: use a console block, or add it to NOT_RUN", block.place)
            });
            check(line);
            println!("not run: {line} ({why})");
        }
    }
}

fn names_a_target_and_its_package(line: &str) {
    let target = line.split_whitespace().nth(1).expect("make has a target");
    let makefile = read("Makefile");
    assert!(makefile.lines().any(|rule| rule.starts_with(&format!("{target}:"))), "no target {target}");
    if line.contains("target/package") {
        names_a_package(line);
    }
}

fn names_a_package(line: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let spec = read("pynatconnd.spec");
    assert!(read("debian/changelog").starts_with(&format!("pynatconnd ({version}) ")), "debian/changelog");
    assert!(spec.contains(&format!("Version:        {version}\n")) && spec.contains("Release:        1%"));
    let packages = [format!("pynatconnd_{version}_amd64.deb"), format!("pynatconnd-{version}-1.x86_64.rpm")];
    let named = packages.iter().any(|name| line.contains(&format!(" ./target/package/{name}")));
    assert!(named, "{line}: expected one of {packages:?}");
}

fn names_the_unit(line: &str) {
    assert!(line.split_whitespace().any(|word| word == "pynatconnd"), "{line}");
    let unit = read("systemd/pynatconnd.service");
    assert!(unit.contains("ExecStart=/usr/bin/pynatconnd\n") && unit.contains("\nExecReload="), "{unit}");
}

fn names_the_file(line: &str) {
    assert!(line.contains(CONFIG_PATH) && exists("pynatconnd.conf"), "{line}");
    assert!(
        read("Makefile").contains("/etc/pynatconnd.conf")
            || read("pynatconnd.spec").contains("pynatconnd.conf")
    );
}

/// Starts it by the words that stand before `pynatconnd -c`.
fn runs_the_daemon(line: &str) {
    let before = line.strip_suffix(&format!(" pynatconnd -c {CONFIG_PATH}")).expect("it starts the daemon");
    let lab = Lab::builder().build();
    // The built one may lie where only its owner can go. Another process copies it: a file that this one has
    // open for writing may be so in a child of another test, too, and can't be executed then.
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be made");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
    let copy = directory.path().join("pynatconnd");
    let copied = Command::new("install").args(["-m", "755", PROGRAM]).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program can be copied");
    let gateway = lab.gateway().name().to_owned();
    let words = before.split_whitespace().map(|word| if word == "gateway" { &gateway } else { word });
    let words: Vec<_> = words.map(str::to_owned).collect();
    let builder = Daemon::builder(readme_config()).program(copy).under(words);
    // `ip netns exec` has to change the namespace by itself.
    let started_from = if line.starts_with("ip netns") { lab.client() } else { lab.gateway() };
    let daemon = builder.start(started_from);
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let _open = lab.connect_to(&server, lab.client_at(0, 40001));
    let answer = lab::http::get(lab.server(), daemon.addr_on(lab.public(0)), "/nat_port/40001");
    assert_eq!(answer.json()["src_ip"], "192.168.7.2", "{line}");
}

/// Root with no capability but the one that is added.
fn runs_with_the_capabilities(line: &str) {
    for part in ["--network host", "--cap-drop all", "--cap-add NET_ADMIN", CONFIG_PATH] {
        assert!(line.contains(part), "{line}: no {part}");
    }
    runs_the_daemon(&format!(
        "setpriv --bounding-set=-all,+net_admin --inh-caps=-all pynatconnd -c {CONFIG_PATH}"
    ));
}

/// What the guide's table of containers says, with the same namespaces and capabilities and no container.
#[test]
fn containers_fare_as_the_guide_says() {
    if !lab::require() {
        return;
    }
    let guide = read("doc/OPERATIONS.md");
    let lab = Lab::builder().build();
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be made");
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
        let command = lab.gateway().command(words[0]).args(&words[1..]).arg(PROGRAM).arg("-c").arg(&path);
        let output = command.output().expect("it can be started");
        assert_eq!(output.status.code(), Some(77), "{row}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(guide.contains("| rootless, with a network of its own, whose NAT is meant | works, "));
    let own = ["unshare", "--user", "--map-root-user", "--net"];
    let daemon = Daemon::builder(readme_config()).under(own).start(lab.gateway());
    daemon.wait_for_line("the table equals the kernel's");
}

#[test]
fn configurations_are_taken_without_a_warning() {
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be made");
    let path = directory.path().join("shown.conf");
    for block in of_language("ini") {
        fs::write(&path, &block.text).expect("it can be written");
        let output = Command::new(PROGRAM).arg("--check-config").arg("-c").arg(&path).output();
        let output = output.expect("the program can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", block.place);
    }
}

#[test]
fn additions_to_the_unit_are_understood() {
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be made");
    let unit = directory.path().join("pynatconnd.service");
    let additions = directory.path().join("pynatconnd.service.d");
    fs::create_dir(&additions).expect("it can be made");
    fs::write(&unit, read("systemd/pynatconnd.service").replace("/usr/bin/pynatconnd", PROGRAM))
        .expect("it can be written");
    for block in of_language("systemd") {
        fs::write(additions.join("override.conf"), &block.text).expect("it can be written");
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
        let output = output.unwrap_or_else(|error| {
            panic!("this test needs systemd-analyze: {error}: `make setup test` installs it")
        });
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<_> = said.lines().filter(|line| line.contains("pynatconnd.service")).collect();
        assert!(ours.is_empty(), "{}: {ours:?}", block.place);
    }
}

#[test]
fn the_program_in_python_finds_the_host() {
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

#[test]
fn texts_are_true() {
    if !lab::require() {
        return;
    }
    for block in of_language("text") {
        let known = TEXTS.iter().find(|(part, _)| block.text.contains(part));
        let (_, check) = known.unwrap_or_else(|| {
            panic!("{}: a text that nothing holds: add it to TEXTS, or make it a console block", block.place)
        });
        check(&block);
    }
}

fn is_what_the_demo_prints(block: &Block) {
    let output = Command::new(Path::new(ROOT).join("demo/run.sh")).args(["--built", PROGRAM]).output();
    let output = output.expect("the demo can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_shown_as(&printed, &block.text), "{}: the demo prints:\n{printed}", block.place);
}

fn names_what_exists(block: &Block) {
    for line in block.text.lines() {
        for name in line.split_whitespace().take_while(|name| name.contains(['/', '.'])) {
            assert!(exists(name), "{}: there is no {name}", block.place);
        }
    }
}

fn has_options_that_exist(block: &Block) {
    let help = Command::new(env!("CARGO_BIN_EXE_check_pynatconnd")).arg("--help").output();
    let help = String::from_utf8(help.expect("it can be started").stdout).expect("it is text");
    assert!(block.text.contains("/usr/bin/check_pynatconnd"), "{}", block.place);
    let words = block.text.split([' ', '"', '\n']);
    for option in words.filter(|word| word.len() == 2 && word.starts_with('-')) {
        assert!(help.contains(&format!("  {option}, ")), "{}: there is no option {option}", block.place);
    }
}

/// All documents of the repository, by their paths in it.
fn documents() -> Vec<PathBuf> {
    let directories = ["", "doc", "doc/monitoring", "nfct", "nfct-sys"];
    let entries = directories.iter().flat_map(|directory| {
        let entries = fs::read_dir(Path::new(ROOT).join(directory)).expect("it can be read");
        entries.map(|entry| Path::new(directory).join(entry.expect("it can be read").file_name()))
    });
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.sort();
    found
}

/// What `#…` may name in a document: its headings, as forges write them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut linked = Vec::new();
    let mut links = 0;
    for document in documents() {
        let text = prose(&read(&document));
        let directory = document.parent().expect("a file is somewhere");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, at)| (file, Some(at)));
            let path = if file.is_empty() { document.clone() } else { directory.join(file) };
            let path = Path::new(ROOT).join(path);
            let path = path.canonicalize().unwrap_or_else(|error| {
                panic!("{}: the link {target} leads nowhere: {error}", document.display())
            });
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&read(&path)).iter().any(|heading| heading == anchor),
                    "{}: {target}: no such heading",
                    document.display()
                );
            }
            linked.push(path);
            links += 1;
        }
        // Files of the project that are named in passing.
        for name in text.split('`').skip(1).step_by(2) {
            let ours =
                ["src/", "tests/", "doc/", "demo/", "debian/", "systemd/", "nfct/", "nfct-sys/", "benches/"];
            let plain = !name.contains(['*', '…', ' ', '{', ':']);
            if plain && ours.iter().any(|begin| name.starts_with(begin)) {
                assert!(exists(name), "{}: there is no {name}", document.display());
            }
        }
    }
    for document in documents().iter().filter(|path| path.starts_with("doc")) {
        let path = Path::new(ROOT).join(document).canonicalize().expect("it is there");
        assert!(linked.contains(&path), "no document links to {}", document.display());
    }
    println!("{links} links");
}

/// The longest piece of a message that is always the same.
fn fixed_piece(literal: &str) -> &str {
    let pieces = literal.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest));
    pieces.max_by_key(|piece| piece.len()).unwrap_or_default().trim_matches([' ', ':', ';'])
}

#[test]
fn the_guide_explains_each_warning_and_each_exit_status() {
    let guide = read("doc/OPERATIONS.md");
    let mut found = 0;
    let mut directories = vec![Path::new(ROOT).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let code = read(&path);
            let calls = ["log::warn!(", "log::error!(", "Level::Warn,"]
                .into_iter()
                .flat_map(|call| code.split(call).skip(1));
            for rest in calls {
                if rest.trim_start().starts_with("error.to_string()") {
                    continue;
                }
                let rest = rest.trim_start().trim_start_matches("format!(");
                let rest = rest.strip_prefix('"').expect("the message is a literal");
                let literal = &rest[..rest.find('"').expect("it ends")];
                let joined: String = literal.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
                let piece = fixed_piece(&joined);
                // `{error}` alone: the error's own words, which end the daemon.
                if piece.is_empty() {
                    continue;
                }
                // The guide may stop at a colon, where what to do follows.
                let piece = piece.split(": set it to").next().unwrap_or_default();
                assert!(
                    guide.contains(piece),
                    "{}: doc/OPERATIONS.md does not explain \"{piece}\"",
                    path.display()
                );
                found += 1;
            }
        }
    }
    assert!(found > 8, "only {found} messages were found");
    for status in [0, 64, 69, 70, 71, 77, 78] {
        let row = |line: &str| {
            line.starts_with(&format!("| {status} |")) || line.starts_with(&format!("| {status}, "))
        };
        assert!(guide.lines().any(row), "doc/OPERATIONS.md does not explain exit status {status}");
    }
}
