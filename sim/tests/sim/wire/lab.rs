//! A region, and a hand to it: requests written by hand, answers read as text.

use std::net::SocketAddr;
use std::path::Path;

use perennial_sim::wire::{Options, RegionServer, StartError, wire_settings};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// 2026-09-14T08:00:00Z.
pub(crate) const EPOCH_MS: u64 = 1_789_372_800_000;

/// A region, and a hand to it.
pub(crate) struct Lab {
    pub(crate) address: SocketAddr,
    server: JoinHandle<Result<(), StartError>>,
}

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The texts of all elements of a name.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let parts = self.body.split(&open).skip(1);
        parts.filter_map(|part| part.split(&close).next()).map(str::to_owned).collect()
    }

    pub(crate) fn one(&self, name: &str) -> String {
        self.all(name).into_iter().next().unwrap_or_else(|| panic!("no {name} in {}", self.body))
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Options { speed: 0.0, ..Options::new(wire_settings(7), EPOCH_MS) }).await
    }

    pub(crate) async fn with_state(directory: &Path) -> Self {
        let state = Some(directory.to_owned());
        Self::with(Options { speed: 0.0, state, ..Options::new(wire_settings(7), EPOCH_MS) }).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let server = RegionServer::bind(options).await.unwrap();
        let address = server.address();
        Self { address, server: tokio::spawn(server.serve(std::future::pending())) }
    }

    /// As `kill -9` leaves it: nothing is told that it ends.
    pub(crate) async fn kill(self) {
        self.server.abort();
        _ = self.server.await;
    }

    /// `None` when the connection is closed without an answer.
    pub(crate) async fn http(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    pub(crate) async fn try_ec2(&self, form: &str) -> Option<Answer> {
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.http("POST", "/", headers, format!("Version=2016-11-15&{form}").as_bytes()).await
    }

    pub(crate) async fn ec2(&self, form: &str) -> Answer {
        self.try_ec2(form).await.expect("an answer")
    }

    pub(crate) async fn target(&self, target: &str, request: &Json) -> Answer {
        let headers = format!("X-Amz-Target: {target}\r\nContent-Type: application/x-amz-json-1.0\r\n");
        self.http("POST", "/", &headers, request.to_string().as_bytes()).await.expect("an answer")
    }

    pub(crate) async fn sqs(&self, action: &str, request: Json) -> Answer {
        self.target(&format!("AmazonSQS.{action}"), &request).await
    }

    pub(crate) async fn queue(&self, name: &str, attributes: Json) -> String {
        let answer = self.sqs("CreateQueue", json!({ "QueueName": name, "Attributes": attributes })).await;
        answer.json()["QueueUrl"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn region(&self, deed: &str, request: Json) -> Answer {
        let headers = "Content-Type: application/json\r\n";
        let path = format!("/_region/{deed}");
        self.http("POST", &path, headers, request.to_string().as_bytes()).await.expect("an answer")
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        assert_eq!(self.region("clock", json!({ "advance_s": seconds })).await.status, 200);
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, "", b"").await.expect("an answer")
    }

    /// A running spot instance.
    pub(crate) async fn instance(&self) -> String {
        let id = self.ec2(SPOT).await.one("instanceId");
        self.advance(10).await;
        id
    }

    pub(crate) async fn image(&self) -> String {
        self.ec2("Action=DescribeImages&Owner.1=amazon").await.one("imageId")
    }
}

pub(crate) const IMAGE: &str = "ami-00000000000000000";
pub(crate) const SPOT: &str = "Action=RunInstances&ImageId=ami-00000000000000000&InstanceType=m6i.large&MinCount=1&MaxCount=1\
     &InstanceMarketOptions.MarketType=spot";
pub(crate) const ZONE: &str = "us-east-1a";
