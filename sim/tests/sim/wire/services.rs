//! The neighbours of EC2: Systems Manager and Elastic Load Balancing.

use serde_json::{Value as Json, json};

use super::lab::{Answer, EPOCH_MS, Lab, SPOT};

impl Lab {
    async fn ssm(&self, action: &str, request: Json) -> Answer {
        self.target(&format!("AmazonSSM.{action}"), &request).await
    }

    /// Sends a shell command and gives its id.
    async fn command(&self, instance: &str, line: &str) -> String {
        let sent = self.ssm("SendCommand", shell(instance, line)).await;
        assert_eq!(sent.status, 200, "{}", sent.body);
        sent.json()["Command"]["CommandId"].as_str().unwrap().to_owned()
    }

    /// Status, details and exit code of an invocation.
    async fn invocation(&self, command: &str, instance: &str) -> (String, String, i64) {
        let request = json!({ "CommandId": command, "InstanceId": instance });
        let found = self.ssm("GetCommandInvocation", request).await;
        assert_eq!(found.status, 200, "{}", found.body);
        let found = found.json();
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("Status"), text("StatusDetails"), found["ResponseCode"].as_i64().unwrap())
    }

    async fn elb(&self, form: &str) -> Answer {
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.http("POST", "/", headers, format!("Version=2015-12-01&{form}").as_bytes())
            .await
            .expect("an answer")
    }

    async fn health(&self, group: &str, target: &str) -> (String, String) {
        let form = format!("Action=DescribeTargetHealth&TargetGroupArn={group}&Targets.member.1.Id={target}");
        let answer = self.elb(&form).await;
        let reason = answer.all("Reason").into_iter().next().unwrap_or_default();
        (answer.one("State"), reason)
    }
}

fn shell(instance: &str, line: &str) -> Json {
    json!({
        "DocumentName": "AWS-RunShellScript",
        "InstanceIds": [instance],
        "Parameters": { "commands": [line] },
        "TimeoutSeconds": 60,
    })
}

fn ended(status: &str, details: &str, code: i64) -> (String, String, i64) {
    (status.to_owned(), details.to_owned(), code)
}

fn of(state: &str, reason: &str) -> (String, String) {
    (state.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_command_runs_on_the_regions_clock_and_does_what_a_script_says() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let script = json!({ "contains": "fsfreeze", "exit_code": 3, "stdout": "out", "stderr": "err", "delay_s": 20, "next": 1 });
    assert_eq!(lab.region("command", script).await.status, 200);
    let command = lab.command(&id, "sudo fsfreeze -f /data").await;
    lab.advance(3).await;
    assert_eq!(lab.invocation(&command, &id).await, ended("InProgress", "InProgress", -1));
    lab.advance(20).await;
    assert_eq!(lab.invocation(&command, &id).await, ended("Failed", "Failed", 3));
    let found =
        lab.ssm("GetCommandInvocation", json!({ "CommandId": command, "InstanceId": id })).await.json();
    assert_eq!(
        (&found["StandardOutputContent"], &found["StandardErrorContent"]),
        (&json!("out"), &json!("err"))
    );
    assert_eq!(found["ExecutionElapsedTime"], "PT20S");
    // The script was for one; and each SendCommand is another command.
    let second = lab.command(&id, "sudo fsfreeze -f /data").await;
    assert_ne!(second, command);
    lab.advance(5).await;
    assert_eq!(lab.invocation(&second, &id).await, ended("Success", "Success", 0));
}

#[tokio::test]
async fn a_command_is_unknown_until_it_is_visible_and_to_instances_without_an_agent_it_is_not_sent() {
    let settings = perennial_sim::wire::wire_settings(7);
    let mut options =
        perennial_sim::wire::Options { speed: 0.0, ..perennial_sim::wire::Options::new(settings, EPOCH_MS) };
    options.settings.latencies.command_visible = perennial_sim::world::settings::Span::ms(900, 900);
    options.settings.latencies.command_deliver = perennial_sim::world::settings::Span::ms(5_000, 5_000);
    let lab = Lab::with(options).await;
    let fresh = lab.ec2(SPOT).await.one("instanceId");
    let refused = lab.ssm("SendCommand", shell(&fresh, "true")).await;
    assert_eq!((refused.status, refused.json()["__type"].clone()), (400, json!("InvalidInstanceId")));
    lab.advance(10).await;
    let command = lab.command(&fresh, "true").await;
    let young = lab.ssm("GetCommandInvocation", json!({ "CommandId": command, "InstanceId": fresh })).await;
    assert!(young.body.contains("InvocationDoesNotExist"), "{}", young.body);
    lab.advance(1).await;
    assert_eq!(lab.invocation(&command, &fresh).await.0, "Pending");
    lab.region("manage", json!({ "instance": fresh, "managed": false })).await;
    assert!(lab.ssm("SendCommand", shell(&fresh, "true")).await.body.contains("InvalidInstanceId"));
    let managed = lab.ssm("DescribeInstanceInformation", json!({})).await.json();
    assert_eq!(managed["InstanceInformationList"], json!([]));
    // The agent that comes back fetches what waited for it.
    lab.advance(10).await;
    lab.region("manage", json!({ "instance": fresh })).await;
    let managed = lab.ssm("DescribeInstanceInformation", json!({})).await.json();
    assert_eq!(managed["InstanceInformationList"][0]["PingStatus"], "Online");
    lab.advance(2).await;
    assert_eq!(lab.invocation(&command, &fresh).await.0, "Success");
    for (request, code) in [
        (json!({ "DocumentName": "AWS-RunShellScript", "InstanceIds": [fresh] }), "InvalidParameters"),
        (json!({ "DocumentName": "x", "InstanceIds": [fresh] }), "InvalidDocument"),
        (json!({ "DocumentName": "mine" }), "ValidationException"),
        (
            json!({ "DocumentName": "mine", "InstanceIds": [fresh], "TimeoutSeconds": 1 }),
            "ValidationException",
        ),
        (
            json!({ "DocumentName": "mine", "InstanceIds": [fresh], "TimeoutSeconds": -1 }),
            "ValidationException",
        ),
        (json!({ "DocumentName": "mine", "InstanceIds": [fresh, fresh] }), "DuplicateInstanceId"),
        (json!({ "DocumentName": "mine", "InstanceIds": ["i-0123456789abcdef0"] }), "InvalidInstanceId"),
        (json!({ "DocumentName": "mine", "InstanceIds": ["nonsense"] }), "InvalidInstanceId"),
    ] {
        let refused = lab.ssm("SendCommand", request.clone()).await;
        assert!(refused.status == 400 && refused.body.contains(code), "{request}: {}", refused.body);
    }
}

#[tokio::test]
async fn every_end_of_a_command_can_be_rehearsed() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    for (script, waits, expected) in [
        (json!({ "outcome": "undeliverable", "delay_s": 5 }), 8, ended("Failed", "Undeliverable", -1)),
        (json!({ "outcome": "unfetched" }), 61, ended("TimedOut", "DeliveryTimedOut", -1)),
        (json!({ "outcome": "hangs" }), 3_603, ended("TimedOut", "ExecutionTimedOut", -1)),
        (json!({ "stdout": "x".repeat(30_000) }), 4, ended("Success", "Success", 0)),
    ] {
        lab.region("forget-commands", json!({})).await;
        assert_eq!(lab.region("command", script.clone()).await.status, 200, "{script}");
        let command = lab.command(&id, "true").await;
        lab.advance(1).await;
        assert!(matches!(lab.invocation(&command, &id).await.0.as_str(), "Pending" | "InProgress"));
        lab.advance(waits).await;
        assert_eq!(lab.invocation(&command, &id).await, expected, "{script}");
    }
    let listed = lab.ssm("ListCommandInvocations", json!({ "InstanceId": id, "Details": true })).await.json();
    assert_eq!(listed["CommandInvocations"].as_array().unwrap().len(), 4);
    let mut statuses = Vec::new();
    let mut request = json!({ "MaxResults": 3 });
    loop {
        let page = lab.ssm("ListCommandInvocations", request.clone()).await.json();
        statuses.extend(page["CommandInvocations"].as_array().unwrap().clone());
        if page["NextToken"].is_null() {
            break;
        }
        request["NextToken"] = page["NextToken"].clone();
    }
    assert_eq!(statuses.len(), 4);

    // Its machine goes away under it: only the timeout ends it.
    lab.region("forget-commands", json!({})).await;
    lab.region("command", json!({ "delay_s": 30 })).await;
    let command = lab.command(&id, "true").await;
    lab.advance(3).await;
    lab.ec2(&format!("Action=TerminateInstances&InstanceId.1={id}")).await;
    lab.advance(200).await;
    // It still ran for half a minute while the machine shut down, or did not: one of the two, and never `Pending`.
    assert!(matches!(lab.invocation(&command, &id).await.0.as_str(), "InProgress" | "Success"));
    lab.advance(3_600).await;
    assert_ne!(lab.invocation(&command, &id).await.0, "InProgress");
    for script in [
        json!({ "outcome": "explodes" }),
        json!({ "outcome": "hangs", "exit_code": 1 }),
        json!({ "outcome": "hangs", "delay_s": 1 }),
        json!({ "delay_s": -1 }),
        json!({ "exit_cod": 1 }),
        json!({ "instance": "x" }),
    ] {
        assert_eq!(lab.region("command", script.clone()).await.status, 400, "{script}");
    }
}

#[tokio::test]
async fn a_target_becomes_healthy_drains_and_is_gone() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let create = "Action=CreateTargetGroup&Name=db&Protocol=TCP&Port=5432&VpcId=vpc-00000000000000001";
    let group = lab.elb(create).await.one("TargetGroupArn");
    assert_eq!(lab.elb(create).await.one("TargetGroupArn"), group, "the same settings again");
    let other = lab.elb("Action=CreateTargetGroup&Name=db&Protocol=TCP&Port=1").await;
    assert_eq!((other.status, other.one("Code")), (400, "DuplicateTargetGroupName".to_owned()));
    let of_group = |action: &str| format!("Action={action}&TargetGroupArn={group}");
    let target = format!("&Targets.member.1.Id={id}");
    assert_eq!(lab.health(&group, &id).await, of("unused", "Target.NotRegistered"));
    let fresh = lab.ec2(SPOT).await.one("instanceId");
    let refused = lab.elb(&format!("{}&Targets.member.1.Id={fresh}", of_group("RegisterTargets"))).await;
    assert_eq!(refused.one("Code"), "InvalidTarget");

    assert_eq!(lab.elb(&format!("{}{target}", of_group("RegisterTargets"))).await.status, 200);
    assert_eq!(lab.health(&group, &id).await, of("initial", "Elb.InitialHealthChecking"));
    lab.advance(36).await;
    assert_eq!(lab.health(&group, &id).await, of("healthy", ""));
    lab.elb(&format!("{}{target}", of_group("RegisterTargets"))).await;
    assert_eq!(lab.health(&group, &id).await, of("healthy", ""), "again changes nothing");
    lab.region("impair", json!({ "instance": id })).await;
    assert_eq!(lab.health(&group, &id).await, of("unhealthy", "Target.FailedHealthChecks"));
    lab.region("impair", json!({ "instance": id, "impaired": false })).await;

    let delay = "&Attributes.member.1.Key=deregistration_delay.timeout_seconds&Attributes.member.1.Value";
    let modified = lab.elb(&format!("{}{delay}=20", of_group("ModifyTargetGroupAttributes"))).await;
    assert!(modified.all("Value").contains(&"20".to_owned()), "{}", modified.body);
    let refused = lab.elb(&format!("{}{delay}=3601", of_group("ModifyTargetGroupAttributes"))).await;
    assert_eq!(refused.one("Code"), "InvalidConfigurationRequest");
    lab.elb(&format!("{}{target}", of_group("DeregisterTargets"))).await;
    assert_eq!(lab.health(&group, &id).await, of("draining", "Target.DeregistrationInProgress"));
    lab.advance(19).await;
    assert_eq!(lab.health(&group, &id).await.0, "draining");
    lab.advance(2).await;
    assert_eq!(lab.health(&group, &id).await, of("unused", "Target.NotRegistered"));
    assert_eq!(lab.elb(&format!("{}{target}", of_group("DeregisterTargets"))).await.status, 200);

    // An instance that goes drains by itself.
    lab.elb(&format!("{}{target}", of_group("RegisterTargets"))).await;
    lab.ec2(&format!("Action=TerminateInstances&InstanceId.1={id}")).await;
    assert_eq!(lab.health(&group, &id).await.0, "draining");
    lab.advance(21).await;
    assert!(lab.elb(&of_group("DescribeTargetHealth")).await.all("State").is_empty());

    assert_eq!(lab.elb(&of_group("DeleteTargetGroup")).await.status, 200);
    let gone = lab.elb(&of_group("DescribeTargetHealth")).await;
    assert_eq!((gone.status, gone.one("Code")), (400, "TargetGroupNotFound".to_owned()));
    for (form, code) in [
        ("Action=CreateTargetGroup&Name=-a&Protocol=TCP&Port=1", "ValidationError"),
        ("Action=CreateTargetGroup&Name=a&Protocol=TCP&Port=70000", "ValidationError"),
        ("Action=CreateTargetGroup&Name=a&Protocol=TCP&Port=1&TargetType=lambda", "ValidationError"),
        ("Action=DescribeTargetGroups&Names.member.1=none", "TargetGroupNotFound"),
        ("Action=DescribeTargetGroups&PageSize=0", "ValidationError"),
        ("Action=CreateLoadBalancer", "InvalidAction"),
    ] {
        assert_eq!(lab.elb(form).await.one("Code"), code, "{form}");
    }
}

#[tokio::test]
async fn targets_by_address_follow_who_holds_it_and_groups_come_in_pages() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let address =
        lab.ec2(&format!("Action=DescribeInstances&InstanceId.1={id}")).await.one("privateIpAddress");
    let mut arns = Vec::new();
    for name in ["a", "b", "c"] {
        let form = format!("Action=CreateTargetGroup&Name={name}&Protocol=TCP&Port=80&TargetType=ip");
        arns.push(lab.elb(&form).await.one("TargetGroupArn"));
    }
    let register = format!("Action=RegisterTargets&TargetGroupArn={}&Targets.member.1.Id", arns[0]);
    assert_eq!(lab.elb(&format!("{register}=8.8.8.8")).await.one("Code"), "InvalidTarget");
    assert_eq!(lab.elb(&format!("{register}={address}&Targets.member.1.Port=81")).await.status, 200);
    lab.advance(36).await;
    let all = lab.elb(&format!("Action=DescribeTargetHealth&TargetGroupArn={}", arns[0])).await;
    assert_eq!((all.one("State"), all.one("Port")), ("healthy".to_owned(), "81".to_owned()));
    lab.ec2(&format!("Action=TerminateInstances&InstanceId.1={id}")).await;
    lab.advance(120).await;
    let all = lab.elb(&format!("Action=DescribeTargetHealth&TargetGroupArn={}", arns[0])).await;
    assert_eq!((all.one("State"), all.one("Reason")), ("unhealthy".to_owned(), "Target.Timeout".to_owned()));
    let first = lab.elb("Action=DescribeTargetGroups&PageSize=2").await;
    let second =
        lab.elb(&format!("Action=DescribeTargetGroups&PageSize=2&Marker={}", first.one("NextMarker"))).await;
    let mut found = [first.all("TargetGroupArn"), second.all("TargetGroupArn")].concat();
    found.sort();
    assert_eq!(found, arns);
    assert!(second.all("NextMarker").is_empty());
}

#[tokio::test]
async fn commands_and_targets_survive_a_kill() {
    let directory = std::env::temp_dir().join(format!("perennial-region-services-{}", std::process::id()));
    _ = std::fs::remove_dir_all(&directory);
    let lab = Lab::with_state(&directory).await;
    let id = lab.instance().await;
    lab.region("command", json!({ "exit_code": 7, "delay_s": 30 })).await;
    let command = lab.command(&id, "true").await;
    let group =
        lab.elb("Action=CreateTargetGroup&Name=db&Protocol=TCP&Port=5432").await.one("TargetGroupArn");
    lab.elb(&format!("Action=RegisterTargets&TargetGroupArn={group}&Targets.member.1.Id={id}")).await;
    lab.advance(5).await;
    let before = lab.get("/_region/dump").await.json();
    lab.kill().await;
    for _ in 0..2 {
        let lab = Lab::with_state(&directory).await;
        assert_eq!(lab.get("/_region/dump").await.json(), before);
        lab.kill().await;
    }
    let lab = Lab::with_state(&directory).await;
    lab.advance(36).await;
    assert_eq!(lab.invocation(&command, &id).await, ended("Failed", "Failed", 7));
    assert_eq!(lab.health(&group, &id).await.0, "healthy");
    lab.kill().await;
    std::fs::remove_dir_all(&directory).unwrap();
}
