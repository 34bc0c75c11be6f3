//! The real binary, as a person or a script uses it: whole transcripts with stderr and exit code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a binary that knows nothing but it.
struct Shell {
    dir: TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PERENNIAL_")) {
            command.env_remove(name);
        }
        command.current_dir(self.path()).args(arguments.split_whitespace());
        // Simulated minutes take seconds; nothing here waits for real time.
        command.env("PERENNIAL_CLOUD", "sim").env("PERENNIAL_SIM_SPEED", "60").env("USER", "tester");
        // As a terminal of the usual width would show it.
        command.env("COLUMNS", "80");
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a terminal would show, and the exit code.
    fn transcript(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        format!("{}{}[exit {}]\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
    }

    fn check(&self, arguments: &str, expected: &Expect) {
        expected.assert_eq(&self.transcript(arguments));
    }

    /// Standard output of a command that must succeed.
    fn stdout(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {:?}\n{text}{errors}", output.status);
        text
    }

    fn json(&self, arguments: &str) -> Value {
        let text = self.stdout(&format!("{arguments} --output json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments}: {error}\n{text}"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// A node file for the simulated region of a server.
    fn node_file(&self, name: &str, server: &Server) {
        self.write(name, &server.node_file);
    }
}

/// A running `perennial serve`; killed when dropped.
struct Server {
    child: Child,
    node_file: String,
}

impl Server {
    fn start(shell: &Shell) -> Self {
        let mut child = shell.command("serve").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready: "), "{ready:?}");
        let id = |prefix: &str| {
            let from = ready.find(prefix).unwrap();
            ready[from..].split([',', ')']).next().unwrap().to_owned()
        };
        let node_file = node_file(&id("subnet-"), &id("ami-"));
        Self { child, node_file }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node_file(subnet: &str, image: &str) -> String {
    format!(
        "schema: perennial.node/v1\nname: db-1\nimage: {image}\nsubnet: {subnet}\ncapacity:\n  instance_types: \
         [m6i.large]\npersist: {{root: adopt, network: secondary_ip}}\ndata_volumes:\n  - {{name: data, device: \
         /dev/sdf, size_gib: 10}}\n"
    )
}

fn narrow(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line:?}");
    }
}

/// A shell in which a demo has left its journal in `demo/`.
fn after_a_demo() -> (Shell, String) {
    let shell = Shell::new();
    let told = shell.stdout("demo --speed 60 --keep demo");
    (shell, told)
}

#[test]
fn the_demo_keeps_everything_in_all_three_modes() {
    let (shell, told) = after_a_demo();
    assert_eq!(told.matches("everything kept").count(), 3, "{told}");
    assert_eq!(told.matches("same, record kept").count(), 5, "two roots and three data volumes\n{told}");
    narrow(&told);
    let history = shell.stdout("--data demo node history db-eni");
    for needed in [
        "registered by demo",
        "db-eni.2 replace: finished after",
        "spot interruption warning",
        "outage",
        "release_interface",
        "the root was adopted",
        "BEFORE",
    ] {
        assert!(history.contains(needed), "no {needed:?} in\n{history}");
    }
    narrow(&history);
    for reading in [
        "node list",
        "node show db-ip",
        "node plan db-ip",
        "workflow list",
        "workflow show db-ip.2",
        "workflow watch db-ip.2",
    ] {
        narrow(&shell.stdout(&format!("--data demo {reading}")));
    }
    let verified = shell.stdout("--data demo journal verify");
    assert!(verified.starts_with("OK: "), "{verified}");
    let again = shell.transcript("demo --keep demo");
    assert!(again.contains("demo holds a journal already") && again.contains("[exit 2]"), "{again}");
}

#[test]
fn the_demo_speaks_json() {
    let shell = Shell::new();
    let told = shell.json("demo --speed 60 --seed 3");
    assert_eq!(told["kept"], true, "{told}");
    let nodes = told["nodes"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| &node["node"]).collect();
    assert_eq!(names, ["db-eni", "db-ip", "batch"]);
    for node in nodes {
        assert_eq!((&node["kept"], &node["broken"]), (&true.into(), &json!([])), "{node}");
        assert!(node["outage_ms"].as_u64() > Some(0), "{node}");
    }
    assert_eq!(told["journal"]["findings"], json!([]));
    assert_eq!(std::fs::read_dir(shell.path()).unwrap().count(), 0, "it leaves nothing");
}

#[test]
fn every_reading_command_speaks_json() {
    let (shell, _) = after_a_demo();
    let head = shell.json("--data demo journal head");
    let events = &head["position"];
    assert!(events.as_u64() > Some(100), "{head}");
    for (arguments, fields) in [
        (
            "node list",
            json!({ "/0/name": "batch", "/2/name": "db-ip", "/2/generation": 2, "/2/operation": null }),
        ),
        (
            "node show db-ip",
            json!({ "/operations": 2, "/resources/recovery_points/root": "same_volume", "/spec/name": "db-ip" }),
        ),
        (
            "node history db-ip",
            json!({
                "/entries/0/remark/text": "registered by demo", "/entries/1/operation/kind": "provision",
                "/entries/2/operation/operation": "db-ip.2", "/entries/2/operation/status": "finished"
            }),
        ),
        ("node plan db-ip", json!({ "/order": "make before break", "/story/operation": "db-ip.3" })),
        ("workflow list", json!({ "/0/kind": "provision", "/5/kind": "replace", "/5/status": "finished" })),
        (
            "workflow show db-ip.2",
            json!({
                "/kind": "replace", "/status": "finished", "/recovery_points/root": "same_volume",
                "/steps/0/token": 2, "/steps/0/intent/preserve/uefi": true
            }),
        ),
        ("journal verify", json!({ "/events": events, "/head": head, "/findings": [] })),
        ("journal rebuild", json!({ "/events": events, "/open_steps": 0, "/unfoldable": [] })),
        ("journal backup copy.sqlite", json!({ "/path": "copy.sqlite", "/head": head })),
        ("journal export --to copy.jsonl", json!({ "/events": events, "/last": head })),
        ("doctor", json!({ "/1/check": "journal", "/1/verdict": "ok", "/2/verdict": "warn" })),
        ("schema", json!({ "/event/title": "Perennial event, version 1", "/node/type": "object" })),
    ] {
        let told = shell.json(&format!("--data demo {arguments}"));
        for (field, expected) in fields.as_object().unwrap() {
            assert_eq!(told.pointer(field), Some(expected), "{arguments}: {field} of {told}");
        }
    }
    let watched = shell.stdout("--data demo workflow watch db-ip.2 --output json");
    let kinds: Vec<Value> =
        watched.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds.first().unwrap(), "operation.started");
    assert_eq!(kinds.last().unwrap(), "operation.finished");
}

#[test]
fn an_exported_journal_is_as_its_schema_says() {
    let (shell, _) = after_a_demo();
    let schema: Value = serde_json::from_str(&shell.stdout("schema event")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let exported = shell.stdout("--data demo journal export");
    assert!(exported.lines().count() > 100);
    for line in exported.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if let Err(error) = validator.validate(&event) {
            panic!("{error} at {}\n{line}", error.instance_path());
        }
    }
    let one = shell.stdout("--data demo journal export --stream node/db-ip --after 1");
    assert!(one.lines().all(|line| line.contains("\"stream\":\"node/db-ip\"")) && one.lines().count() >= 3);
}

#[test]
fn one_flipped_byte_is_found() {
    let (shell, _) = after_a_demo();
    std::fs::create_dir(shell.path().join("flipped")).unwrap();
    shell.stdout("--data demo journal backup flipped/journal.sqlite");
    assert!(shell.stdout("--data flipped journal verify").starts_with("OK: "));
    let file = shell.path().join("flipped/journal.sqlite");
    let bodies = || -> Vec<String> {
        let journal = rusqlite::Connection::open(&file).unwrap();
        let mut events = journal.prepare("SELECT body FROM events ORDER BY position").unwrap();
        let bodies = events.query_map([], |row| row.get(0)).unwrap();
        bodies.map(Result::unwrap).collect()
    };
    let (whole, events) = (std::fs::read(&file).unwrap(), bodies());
    let needle = b"\"requested_by\":\"demo\"";
    let mut flipped = 0;
    for at in (0..whole.len()).filter(|at| whole[*at..].starts_with(needle)) {
        let mut bytes = whole.clone();
        bytes[at + needle.len() - 2] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        if bodies() == events {
            // What a split of a page has left behind belongs to no event.
            continue;
        }
        flipped += 1;
        let output = shell.run("--data flipped journal verify");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "flipped at byte {at}\n{text}");
        assert!(text.contains("damaged"), "{text}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the journal is not as it was written"));
    }
    assert!(flipped >= 3, "{flipped} events were changed");
}

#[test]
fn what_is_asked_while_no_server_runs_is_kept_and_carried_out() {
    let shell = Shell::new();
    let nowhere = expect![[r#"
        error: there is no journal at ./.perennial/journal.sqlite
        hint: nothing has run in this data directory yet: start `perennial serve`, or name another with --data DIR
        [exit 4]
    "#]];
    shell.check("node list", &nowhere);
    shell.check("node replace db-1 --id early", &nowhere);
    // The region of a seed has the same subnets and images each time.
    let file = Server::start(&shell).node_file.clone();
    shell.write("db-1.yaml", &file);
    shell.check(
        "node apply -f db-1.yaml --id first",
        &expect![[r#"
            first: kept in the queue until a server runs: `perennial serve`
            [exit 0]
        "#]],
    );
    shell.check(
        "node replace db-1 --id second --wait --timeout 200ms",
        &expect![[r#"
            submitted second
            not known yet: the outcome of submission second is not known after 0.2 s
            hint: it is kept: start `perennial serve` if none runs, and look with `perennial workflow list`
            [exit 5]
        "#]],
    );
    let _server = Server::start(&shell);
    // The same key again is the same request: it follows the first one.
    let told = shell.transcript("node apply -f db-1.yaml --id first --wait");
    assert!(told.starts_with("first: workflow db-1.1 finished\n") && told.ends_with("[exit 0]\n"), "{told}");
    let nodes = shell.json("node list");
    assert_eq!((&nodes[0]["name"], &nodes[0]["generation"]), (&"db-1".into(), &1.into()), "{nodes}");
    let same = shell.transcript("node apply -f db-1.yaml --id third --wait");
    assert!(same.contains("the node is meant to be so already") && same.ends_with("[exit 0]\n"), "{same}");
}

#[test]
fn a_node_lives_and_ends_by_commands() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    shell.node_file("db-1.yaml", &server);
    shell.stdout("node apply -f db-1.yaml --wait");
    let before = shell.json("node show db-1");
    let replaced = shell.json("node replace db-1 --reason kernel --wait");
    assert_eq!(replaced["workflow"], "db-1.2");
    let after = shell.json("node show db-1");
    assert_eq!(after["resources"]["volumes"], before["resources"]["volumes"]);
    assert_ne!(after["resources"]["carrier"]["instance"], before["resources"]["carrier"]["instance"]);
    let refused = shell.transcript("workflow resume db-1.2 --wait --id r");
    assert!(refused.contains("error: submission r was rejected: workflow db-1.2 is not open"), "{refused}");
    assert!(refused.ends_with("[exit 1]\n"), "{refused}");
    shell.stdout("node delete db-1 --keep none --yes --wait");
    let nodes = shell.json("node list");
    assert_eq!((&nodes[0]["deleted"], &nodes[0]["state"]), (&true.into(), &"deleted".into()));
    let history = shell.stdout("node history db-1");
    assert!(history.contains("asked for by tester: kernel"), "{history}");
}

#[test]
fn a_stuck_workflow_says_what_it_needs_and_can_be_resumed() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    let wrong = server.node_file.lines().map(|line| match line.strip_prefix("image: ") {
        Some(_) => "image: ami-0badbadbadbadbad0\n".to_owned(),
        None => format!("{line}\n"),
    });
    shell.write("db-1.yaml", &wrong.collect::<String>());
    let stuck = shell.transcript("node apply -f db-1.yaml --wait");
    assert!(stuck.contains("error: workflow db-1.1 is stuck at resolve: "), "{stuck}");
    assert!(
        stuck.contains("hint: correct the node file")
            && stuck.contains("then `perennial workflow resume db-1.1`\n")
            && stuck.ends_with("[exit 6]\n"),
        "{stuck}"
    );
    assert!(shell.stdout("node list").contains("STUCK in provision"));
    let again = shell.transcript("workflow resume db-1.1 --wait");
    assert!(again.contains("went on into workflow db-1.1") && again.ends_with("[exit 6]\n"), "{again}");
    let told = shell.transcript("workflow resume db-1.1 --wait -o json");
    let error = told.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).unwrap();
    let error = &error["error"];
    assert_eq!((&error["kind"], &error["exit_code"]), (&"stuck".into(), &6.into()), "{told}");
    let text = |field: &str| error[field].as_str().unwrap().to_owned();
    assert!(text("message").contains("workflow db-1.1 is stuck at resolve: "), "{told}");
    assert!(text("hint").contains("correct the node file"), "{told}");
    // One of several that cannot go on leaves the others alone.
    shell.write("db-2.yaml", &server.node_file.replace("name: db-1", "name: db-2"));
    let told = shell.transcript("node apply db-1.yaml db-2.yaml --wait");
    assert!(
        told.contains("error: 1 of 2 were not done; see above") && told.ends_with("[exit 7]\n"),
        "{told}"
    );
    assert_eq!(shell.stdout("node list --state in-place -o name"), "db-2\n");
}

#[test]
fn a_second_server_is_refused_and_a_signal_ends_the_first() {
    let shell = Shell::new();
    let mut server = Server::start(&shell);
    let refused = shell.transcript("serve").replace(&server.child.id().to_string(), "PID");
    expect![[r#"
        error: ./.perennial/journal.sqlite is in use by another engine (process PID), which holds ./.perennial/journal.sqlite.lock; stop that one first, or give this one a data directory of its own
        [exit 4]
    "#]]
    .assert_eq(&refused);
    assert!(shell.transcript("journal rebuild").contains("in use by another engine"));
    assert!(shell.stdout("doctor").contains("running (process"));
    server.signal("-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    Server::start(&shell).signal("-INT");
}

/// `doctor` is another process: it reads what the server writes into the data directory.
#[test]
fn doctor_says_when_each_task_of_the_server_ran_and_that_none_runs_without_it() {
    let shell = Shell::new();
    let without = shell.stdout("doctor");
    assert!(!without.contains("task"), "no server has run here: {without}");
    let mut server = Server::start(&shell);
    let status = shell.path().join(".perennial/status.json");
    // Simulated time is sixty times as fast: a sweep every third of a second.
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let report = shell.json("doctor");
        let lines = report.as_array().unwrap().iter();
        let is_task = |line: &&Value| line["check"].as_str().unwrap().starts_with("task ");
        tasks = lines.filter(is_task).cloned().collect();
        if tasks.iter().any(|task| {
            task["found"]
                .as_str()
                .unwrap()
                .split_once("ago, took ")
                .is_some_and(|(_, rest)| rest.contains("; next in "))
        }) {
            break;
        }
    }
    let found = |name: &str| {
        let task = tasks.iter().find(|task| task["check"] == name).unwrap_or_else(|| panic!("{tasks:?}"));
        (task["verdict"].as_str().unwrap().to_owned(), task["found"].as_str().unwrap().to_owned())
    };
    let (verdict, sweep) = found("task sweep");
    assert_eq!(verdict, "ok", "{sweep}");
    assert!(sweep.contains("ago, took ") && sweep.contains("; next in "), "{sweep}");
    assert_eq!(found("task return_to_spot").0, "ok");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&status).unwrap()).unwrap();
    let schemas = perennial_views::schemas::all();
    let (_, schema) = schemas.iter().find(|(name, _)| *name == "views/server-status").unwrap();
    let validator = jsonschema::validator_for(schema.as_value()).unwrap();
    if let Err(error) = validator.validate(&written) {
        panic!("{error} at {}: {written:#}", error.instance_path());
    }
    assert_eq!(written["process"], server.child.id());
    server.signal("-TERM");
    server.child.wait().unwrap();
    let report = shell.json("doctor");
    let tasks = report.as_array().unwrap().iter().find(|line| line["check"] == "tasks").unwrap();
    assert_eq!(tasks["verdict"], "warn");
    let found = tasks["found"].as_str().unwrap();
    assert!(found.starts_with("none runs, because the server is not running; it last wrote "), "{found}");
}

#[test]
fn a_mistake_in_a_node_file_is_pointed_at() {
    let shell = Shell::new();
    shell.write(
        "typo.yaml",
        "schema: perennial.node/v1\nname: db-1\nimage: ami-1\nsubnet: subnet-1\ncapacity:\n  instance_types: [m6i.large]\n  markt: spot_only\n",
    );
    shell.check(
        "node apply -f typo.yaml",
        &expect![[r#"
            error: typo.yaml:7:3: unknown field `markt` in `capacity`
              7 |   markt: spot_only
                |   ^^^^^
              help: did you mean `market`?
            hint: `perennial schema node` shows what is allowed
            [exit 2]
        "#]],
    );
    shell.write("form.yaml", "schema: perennial.node/v1\nname: [\n");
    shell.check(
        "node plan -f form.yaml",
        &expect![[r#"
            error: form.yaml:2:7: unclosed bracket '['
              2 | name: [
                |       ^
            hint: `perennial schema node` shows what is allowed
            [exit 2]
        "#]],
    );
    shell.write("name.json", r#"{"schema":"perennial.node/v1", "name":"Db 1"}"#);
    shell.check(
        "node apply -f name.json",
        &expect![[r#"
            error: name.json:1:2: image is missing
              1 | {"schema":"perennial.node/v1", "name":"Db 1"}
                |  ^^^^^^
            name.json:1:2: subnet is missing
              1 | {"schema":"perennial.node/v1", "name":"Db 1"}
                |  ^^^^^^
            name.json:1:2: capacity is missing
              1 | {"schema":"perennial.node/v1", "name":"Db 1"}
                |  ^^^^^^
            hint: `perennial schema node` shows what is allowed
            [exit 2]
        "#]],
    );
    shell.write("sense.yaml", &node_file("subnet-1", "ami-1").replace("[m6i.large]", "[m6i.large, large]"));
    shell.check(
        "node apply -f sense.yaml",
        &expect![[r#"
            error: sense.yaml:6:31: capacity.instance_types[1]: "large" is not an instance type such as "m6i.large"
              6 |   instance_types: [m6i.large, large]
                |                               ^^^^^
            hint: `perennial schema node` shows what is allowed
            [exit 2]
        "#]],
    );
    shell.check(
        "node apply -f nowhere.yaml",
        &expect![[r#"
            error: nowhere.yaml: No such file or directory (os error 2)
            [exit 2]
        "#]],
    );
    assert_eq!(std::fs::read_dir(shell.path()).unwrap().count(), 4, "nothing was sent anywhere");
}

#[test]
fn a_node_file_may_come_through_stdin() {
    let shell = Shell::new();
    let mut child = shell
        .command("node plan -f - --output json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(node_file("subnet-1", "ami-1").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let plans: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plans["replace"]["order"], "make before break");
}

#[test]
fn a_plan_of_types_that_are_to_be_found_says_so() {
    let shell = Shell::new();
    let wanted = "requirements: {vcpus: {min: 2}, memory_gib: {min: 8}}\n  price_max: \"0.05\"";
    let file = node_file("subnet-1", "ami-1").replace("instance_types: [m6i.large]", wanted);
    shell.write("found.yaml", &file);
    let plan = shell.stdout("node plan -f found.yaml");
    narrow(&plan);
    for needed in ["capacity  found at run time", "survey ", "Which types fit is found", "0.05 an hour"] {
        assert!(plan.contains(needed), "no {needed:?} in\n{plan}");
    }
}

#[test]
fn a_submission_may_come_from_a_file() {
    let shell = Shell::new();
    shell.write("replace.yaml", "workflow: node.replace\nnode: db-1\nparams: {reason: kernel}\n");
    drop(Server::start(&shell));
    shell.check(
        "workflow submit -f replace.yaml --id s-1",
        &expect![[r#"
            s-1: kept in the queue until a server runs: `perennial serve`
            [exit 0]
        "#]],
    );
    shell.write("wrong.yaml", "workflow: node.replace\nparams: {reason: kernel}\n");
    shell.check(
        "workflow submit -f wrong.yaml --id s-2",
        &expect![[r#"
            error: node.replace needs the field `node`
            [exit 2]
        "#]],
    );
}

#[test]
fn a_deletion_says_what_is_kept() {
    let shell = Shell::new();
    let refused = shell.transcript("node delete db-1");
    assert!(refused.contains("--keep <CLASSES>") && refused.ends_with("[exit 2]\n"), "{refused}");
    let refused = shell.transcript("node delete db-1 --keep volumes");
    assert!(refused.contains("\"volumes\" is no class") && refused.ends_with("[exit 2]\n"), "{refused}");
    drop(Server::start(&shell));
    let refused = shell.transcript("node delete db-1 --keep root,data --id d");
    assert!(refused.contains("hint: say --yes") && refused.ends_with("[exit 2]\n"), "{refused}");
    assert_eq!(
        shell.stdout("node delete db-1 --keep root,data --id d --yes"),
        "d: kept in the queue until a server runs: `perennial serve`\n"
    );
}

#[test]
fn what_a_node_retains_is_shown_and_pruned() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    shell.write("db-1.yaml", &server.node_file.replace("root: adopt", "root: image"));
    shell.stdout("node apply -f db-1.yaml --wait");
    shell.stdout("node replace db-1 --wait");
    let resources = shell.json("node show db-1")["resources"].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (old, data) =
        (text(&resources["retained"][0]["volume"]), text(&resources["volumes"]["data"]["volume"]));
    assert!(resources["retained"][0]["since_ms"].is_u64(), "{resources}");
    let shown = shell.stdout("node show db-1");
    assert!(shown.contains("are paid for; `node prune --dry-run`"), "{shown}");
    narrow(&shown);
    for (arguments, said, code) in [
        // Nobody is there to be asked.
        (String::new(), "say --yes; --dry-run shows what would be deleted", 2),
        ("--older-than soon --yes".into(), "such as 30d, 12h or 90m", 2),
        ("--dry-run --yes".into(), "cannot be used with", 2),
        (format!("--dry-run --volume {data}"), "is not retained by the node; it is the node's data", 2),
        ("--volume vol-nobodys --yes --wait".into(), "vol-nobodys is not retained by the node", 1),
        ("--yes --wait".into(), "nothing to do: nothing that is retained", 0),
    ] {
        let told = shell.transcript(&format!("node prune db-1 {arguments}"));
        assert!(told.split_whitespace().collect::<Vec<_>>().join(" ").contains(said), "{arguments}: {told}");
        assert!(told.ends_with(&format!("[exit {code}]\n")), "{arguments}: {told}");
    }
    let listed = shell.stdout("node prune db-1 --dry-run");
    assert!(listed.starts_with("STAYS") && listed.contains(&old), "a week: {listed}");
    narrow(&listed);
    let wished = "node prune db-1 --older-than 0d";
    let listed = shell.stdout(&format!("{wished} --dry-run"));
    assert!(listed.starts_with("DELETE") && listed.contains(&old), "{listed}");
    narrow(&listed);
    assert_eq!(shell.json(&format!("{wished} --dry-run"))["delete"][0]["volume"], old.as_str());
    assert_eq!(shell.json("node show db-1")["operations"], 2, "nothing was done");
    assert_eq!(shell.json(&format!("{wished} --yes --wait --reason good"))["workflow"], "db-1.3");
    assert_eq!(shell.json("node show db-1")["resources"]["retained"], json!([]));
    let history = shell.stdout("node history db-1");
    assert!(history.contains("asked for by tester: good"), "{history}");
    assert!(history.contains(&format!("delete_volume:{old}")), "{history}");
    assert_eq!(shell.stdout(&format!("{wished} --dry-run")), "db-1 retains no volume\n");
}

#[test]
fn an_unknown_configuration_key_is_named() {
    let shell = Shell::new();
    shell.write("perennial.toml", "owner = \"me\"\n\n[queues]\nsubmision = \"q\"\n");
    shell.check(
        "node list",
        &expect![[r#"
            configuration error: perennial.toml:4:1: unknown field `submision`, expected one of `kind`, `submissions`, `interruptions`, `steps`
            hint: the keys are listed by `perennial --help` and in docs/cli.md
            [exit 3]
        "#]],
    );
    let doctor = shell.transcript("doctor");
    assert!(doctor.contains("FAIL  configuration") && doctor.ends_with("[exit 1]\n"), "{doctor}");
    shell.check(
        "--config other.toml node list",
        &expect![[r#"
            configuration error: other.toml: No such file or directory (os error 2)
            [exit 3]
        "#]],
    );
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let shell = Shell::new();
    // Larger than a pipe's buffer: the write must find the other end closed.
    let mut child =
        shell.command("schema event").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn every_command_shows_an_example() {
    let shell = Shell::new();
    let commands = |text: &str| -> Vec<String> {
        let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        listed
            .take_while(|line| line.starts_with("  "))
            .filter(|line| !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .map(str::to_owned)
            .collect()
    };
    let root = shell.stdout("--help");
    assert!(root.contains("Exit codes:"), "{root}");
    narrow(&root);
    let mut seen = 0;
    for area in commands(&root) {
        let help = shell.stdout(&format!("{area} --help"));
        assert!(help.contains("Example: perennial"), "{area}\n{help}");
        narrow(&help);
        for command in commands(&help) {
            let help = shell.stdout(&format!("{area} {command} --help"));
            assert!(help.contains("Example: perennial"), "{area} {command}\n{help}");
            narrow(&help);
            seen += 1;
        }
    }
    assert!(seen >= 17, "{seen} subcommands in all");
}

/// Whoever looks at a node need not see what its user data holds.
#[test]
fn user_data_is_shown_only_if_it_is_asked_for() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    shell.write(
        "db-1.yaml",
        &(server.node_file.clone() + "user_data: \"#!/bin/sh\\nexport PASSWORD=hunter2\\n\"\n"),
    );
    shell.stdout("node apply -f db-1.yaml --wait");
    let commands = [
        "node show db-1",
        "node show db-1 --output json",
        "node history db-1",
        "node history db-1 --output json",
        "node plan db-1",
        "node plan db-1 --output json",
        "node plan -f db-1.yaml --output json",
        "workflow show db-1.1",
        "workflow show db-1.1 --output json",
        "workflow watch db-1.1",
        "workflow watch db-1.1 --output json",
        "journal export",
        "journal verify",
    ];
    for command in commands {
        let told = shell.transcript(command);
        assert!(!told.contains("hunter2"), "{command}\n{told}");
    }
    let exported = shell.stdout("journal export");
    let redacted = exported.lines().filter(|line| line.contains("\"redacted\":true")).count();
    assert!(redacted >= 3, "the submission, the node and the launch: {redacted}");
    for command in ["node show db-1 --output json --secrets", "--secrets journal export"] {
        assert!(shell.stdout(command).contains("hunter2"), "{command}");
    }
    assert!(!shell.stdout("--secrets journal export").contains("\"redacted\""));
    shell.stdout("--secrets journal export --to whole.jsonl");
    shell.stdout("journal export --to shown.jsonl");
    let read = |name: &str| std::fs::read_to_string(shell.path().join(name)).unwrap();
    assert!(read("whole.jsonl").contains("hunter2") && !read("shown.jsonl").contains("hunter2"));
}

/// A journal that lost its end is told from a whole one, and nothing is advised or done that hides it.
#[test]
fn a_journal_whose_end_was_cut_off_is_neither_called_whole_nor_served_nor_rebuilt() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    shell.node_file("db-1.yaml", &server);
    shell.stdout("node apply -f db-1.yaml --wait");
    server.signal("-TERM");
    let mut server = server;
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let head = shell.stdout("journal head").trim().replace(' ', ":");
    // It was shipped at the stop.
    let shipped = std::fs::read_to_string(shell.path().join(".perennial/heads.jsonl")).unwrap();
    assert!(shipped.lines().last().unwrap().contains(head.split(':').nth(1).unwrap()), "{shipped}");
    shell.stdout(&format!("journal verify --head {head}"));
    shell.stdout("journal verify --heads .perennial/heads.jsonl");
    let wrong = format!("{}:{}", head.split(':').next().unwrap(), "0".repeat(64));
    assert!(shell.transcript(&format!("journal verify --head {wrong}")).ends_with("[exit 1]\n"));

    let path = shell.path().join(".perennial/journal.sqlite");
    let journal = rusqlite::Connection::open(&path).unwrap();
    let triggers: Vec<(String, String)> = journal
        .prepare("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (name, _) in &triggers {
        journal.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    journal
        .execute_batch("DELETE FROM events WHERE position > (SELECT max(position) - 3 FROM events)")
        .unwrap();
    for (_, sql) in &triggers {
        journal.execute_batch(sql).unwrap();
    }
    drop(journal);
    let heads = shell.path().join(".perennial/heads.jsonl");
    std::fs::rename(&heads, shell.path().join("elsewhere.jsonl")).unwrap();
    let blind = shell.transcript("journal verify");
    assert!(blind.ends_with("[exit 1]\n"), "{blind}");
    assert!(!blind.contains("events are whole") && !blind.contains("journal rebuild"), "{blind}");
    for arguments in
        [format!("journal verify --head {head}"), "journal verify --heads elsewhere.jsonl".to_owned()]
    {
        let told = shell.transcript(&arguments);
        let flat = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("the journal ends at position") && told.ends_with("[exit 1]\n"), "{told}");
        assert!(!told.contains("journal rebuild"), "{told}");
    }
    std::fs::copy(shell.path().join("elsewhere.jsonl"), &heads).unwrap();
    let served = shell.transcript("serve");
    assert!(served.contains("is not as it was written") && served.ends_with("[exit 1]\n"), "{served}");
}

#[test]
fn an_id_that_was_used_for_something_else_is_refused() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    shell.node_file("db-1.yaml", &server);
    shell.stdout("node apply -f db-1.yaml --wait");
    shell.stdout("node replace db-1 --id maint-1 --wait");
    shell.stdout("node replace db-1 --id maint-1 --wait");
    for other in [
        "node replace db-1 --reason another --id maint-1 --wait",
        "node replace db-1 --reason another --id maint-1",
        "node delete db-1 --keep none --yes --id maint-1 --wait",
        "node pause db-2 --id maint-1",
    ] {
        let told = shell.transcript(other);
        assert!(told.contains("mismatch") && told.ends_with("[exit 1]\n"), "{other}\n{told}");
    }
    assert_eq!(shell.json("node list")[0]["deleted"], false);
    assert_eq!(shell.json("workflow list").as_array().unwrap().len(), 2);
}

#[test]
fn every_mistake_of_every_file_is_told_at_once_with_its_line() {
    let shell = Shell::new();
    std::fs::create_dir(shell.path().join("nodes")).unwrap();
    let good = node_file("subnet-1", "ami-1");
    let bad =
        good.replace("name: db-1", "name: db-2").replace("capacity:", "persit: {root: adopt}\ncapacity:");
    shell.write("nodes/a.yaml", &format!("{good}---\n{bad}"));
    shell.write("nodes/b.json", &node_file("subnet-1", "ami-1").replace("size_gib: 10", "size_gib: 0"));
    shell.check(
        "node diff -f nodes",
        &expect![[r#"
        error: nodes/a.yaml:15:1: unknown field `persit`
          15 | persit: {root: adopt}
             | ^^^^^^
          help: did you mean `persist`?
        nodes/b.json:9:46: data_volumes[0].size_gib: is 0; it takes 1 to 65536
          9 |   - {name: data, device: /dev/sdf, size_gib: 0}
            |                                              ^
        hint: `perennial schema node` shows what is allowed
        [exit 2]
    "#]],
    );
    assert_eq!(
        shell.transcript("doctor -f nodes"),
        shell.transcript("node diff -f nodes"),
        "the same reading"
    );
    shell.write("pool.yaml", "schema: perennial.pool/v1\nname: p\nsubnet: subnet-1\naddresses: [10.0.0.1]\n");
    let told = shell.transcript("node apply pool.yaml");
    assert!(told.contains("this is a pool") && told.contains("`perennial pool apply -f FILE`"), "{told}");
    shell.write(
        "rules.yaml",
        &good
            .replace("size_gib: 10", "size_gib: 10, iops: 4, volume_type: gp2")
            .replace("network: secondary_ip", "network: none"),
    );
    let told = shell.transcript("node diff rules.yaml");
    assert!(
        told.contains("data_volumes[0].iops: gp2 has none of its own") && told.contains("^^^^"),
        "{told}"
    );
}

#[test]
fn several_documents_are_applied_and_a_difference_is_shown_first() {
    let shell = Shell::new();
    let server = Server::start(&shell);
    let other = server.node_file.replace("name: db-1", "name: db-2");
    shell.write("both.yaml", &format!("# two nodes\n{}---\n{other}tags: {{team: db}}\n", server.node_file));
    let told = shell.transcript("node apply both.yaml");
    assert!(told.contains("started workflow db-1.1; follow it: perennial workflow watch db-1.1"), "{told}");
    assert!(told.contains("started workflow db-2.1") && told.ends_with("[exit 0]\n"), "{told}");
    shell.stdout("workflow watch db-1.1");
    shell.stdout("workflow watch db-2.1");
    assert_eq!(shell.stdout("node list -l team=db -o name"), "db-2\n");
    assert_eq!(shell.stdout("node list --state in-place,down -o name"), "db-1\ndb-2\n");
    assert_eq!(shell.stdout("node list --market on-demand -o name"), "");
    assert!(shell.stdout("node list").starts_with("in place 2\n"));
    let report = shell.transcript("doctor -f both.yaml");
    assert!(report.contains("ok    configuration") && report.ends_with("[exit 0]\n"), "{report}");
    shell.write(
        "db-1.yaml",
        &server.node_file.replace("size_gib: 10", "size_gib: 20").replace("[m6i.large]", "[m5.large]"),
    );
    let diff = shell.stdout("node diff -f db-1.yaml");
    assert_eq!(
        diff,
        "db-1:\n  at once\n    data_volumes.data.size_gib: 10 → 20\n  with the next move, unless a workflow takes it at once\n    \
         capacity.instance_types: [m6i.large] → [m5.large]\n"
    );
    let dry = shell.transcript("node apply db-1.yaml --dry-run");
    assert!(dry.ends_with("[exit 0]\n") && dry.contains("10 → 20"), "{dry}");
    shell.write("small.yaml", &server.node_file.replace("size_gib: 10", "size_gib: 5"));
    let refused = shell.transcript("node apply small.yaml --dry-run");
    assert!(refused.contains("REFUSED") && refused.ends_with("[exit 1]\n"), "{refused}");
    assert_eq!(shell.json("workflow list").as_array().unwrap().len(), 2, "nothing was sent");
    let newest = shell.stdout("workflow show db-2");
    assert!(newest.contains("db-2.1 provision: finished"), "{newest}");
    assert!(
        shell.transcript("node replace db-1 --timeout 5s").ends_with("[exit 2]\n"),
        "it waits for nothing"
    );
    let near = shell.transcript("node show db1");
    assert!(near.contains("hint: did you mean db-1?"), "{near}");
}

#[test]
fn a_refusal_is_told_without_wait_and_is_found_again() {
    let shell = Shell::new();
    let mut server = Server::start(&shell);
    shell.write("db-1.yaml", &format!("{}protect: true\n", server.node_file));
    shell.stdout("node apply -f db-1.yaml --wait --as alice --id first");
    let refused = shell.transcript("node delete db-1 --keep none --yes --id second");
    assert!(refused.contains("error: submission second was rejected: db-1 is protected"), "{refused}");
    assert!(refused.ends_with("[exit 1]\n"), "{refused}");
    let listed = shell.stdout("submission list --rejected");
    assert!(listed.contains("second") && !listed.contains("alice"), "{listed}");
    let shown = shell.json("submission show first");
    assert_eq!((&shown["who"], &shown["workflow"]), (&"alice".into(), &"db-1.1".into()), "{shown}");
    assert!(shown["at"].as_str().unwrap().ends_with('Z'), "{shown}");
    assert!(shell.transcript("submission show third").ends_with("[exit 2]\n"));
    let csv = shell.stdout("audit db-1 --by alice --format csv");
    assert!(csv.starts_with("time,who,what,node,") && csv.lines().count() == 2, "{csv}");
    let html = shell.stdout("audit --format html");
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("node.delete") && !html.contains("<script"));
    server.signal("-TERM");
    server.child.wait().unwrap();
    let status = shell.transcript("status --fail-on server,stuck");
    assert!(
        status.contains("server: NOT RUNNING") && status.ends_with("error: no server runs\n[exit 1]\n"),
        "{status}"
    );
    let listed = shell.transcript("node list");
    assert!(listed.contains("! no server runs on this journal (last event "), "{listed}");
    let shown = shell.stdout("node show db-1");
    assert!(shown.lines().next().unwrap().ends_with("server: NOT RUNNING"), "{shown}");
    let audit = shell.stdout("audit");
    assert!(audit.contains("engine started") && audit.contains("engine stopped"), "{audit}");
}

#[test]
fn a_pipe_gets_a_line_a_row_a_narrow_terminal_whole_ids_and_colours_only_where_they_are_wanted() {
    let (shell, _) = after_a_demo();
    let run = |columns: &str, arguments: &str| {
        let mut command = shell.command(&format!("--data demo {arguments}"));
        let output = command.env("COLUMNS", columns).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let id = shell.json("--data demo node show db-ip")["resources"]["carrier"]["instance"]
        .as_str()
        .unwrap()
        .to_owned();
    for columns in ["60", "80", "200"] {
        let listed = run(columns, "node list -o wide");
        assert!(listed.contains(&id), "{columns} columns\n{listed}");
    }
    // `0` is no width: as a pipe without `COLUMNS`.
    let piped = run("0", "workflow list");
    assert_eq!(piped.lines().count(), 7, "a header and six workflows, a line each\n{piped}");
    assert!(!piped.contains('\x1b'), "{piped}");
    let coloured = run("0", "node list --color always");
    assert!(coloured.contains(&format!("\x1b[2m{id}\x1b[0m")), "{coloured}");
    assert!(shell.stdout("completions bash").contains("_perennial"));
    shell.stdout("man --to man");
    assert!(shell.path().join("man/perennial-node-show.1").exists());
}

#[test]
fn the_policy_is_printed_filled_in_for_what_it_is_needed_for() {
    let shell = Shell::new();
    let sids = |arguments: &str| -> Vec<String> {
        let document: Value = serde_json::from_str(&shell.stdout(arguments)).unwrap();
        let statements = document["Statement"].as_array().unwrap();
        statements.iter().map(|one| one["Sid"].as_str().unwrap().to_owned()).collect()
    };
    let own = "policy --owner prod-eu --account 111122223333";
    let usual = sids(own);
    assert!(usual.contains(&"Look".to_owned()) && usual.contains(&"UseQueues".to_owned()), "{usual:?}");
    assert!(!usual.contains(&"PassNodeRole".to_owned()), "no role is named: {usual:?}");
    assert!(sids(&format!("{own} --role db-node")).contains(&"PassNodeRole".to_owned()));
    assert!(shell.stdout(own).contains(r#""aws:RequestTag/perennial:owner": "prod-eu""#));
    assert_eq!(sids(&format!("{own} --need attached-volumes")), ["CarryUnownedVolumes"]);
    // It asks nothing of an installation, and says which placeholder is left.
    std::fs::write(shell.path().join("perennial.toml"), "nonsense = 1").unwrap();
    shell.check(
        "policy --account 111122223333",
        &expect![[r#"
            error: the policy for base needs the owner
            hint: add --owner
            [exit 2]
        "#]],
    );
    let queue = "policy --need queue-of-events --account 111122223333 --region eu-central-1";
    let told = shell.stdout(queue);
    assert!(told.contains("arn:aws:sqs:eu-central-1:111122223333:perennial-interruptions"), "{told}");
    assert!(told.contains("rule/perennial-ec2") && told.contains("rule/perennial-health"), "{told}");
    let mixed = shell.transcript("policy --need base,queue-of-events --owner me --account 111122223333");
    assert!(mixed.contains("the policy of a queue stands alone") && mixed.contains("[exit 2]"), "{mixed}");
}
