//! Connections, and the service of each request.
//!
//! A lost request or reply is a connection that is closed without an answer: that is why hyper stands here
//! and no framework above it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::imds::Reader;
use super::params::Params;
use super::region::{Broken, CallRecord, Region};
use super::sqs::model::Refusal;
use super::xml::Element;
use super::{control, ec2, elb, events, imds, queues, rules};
use crate::faults::Fault;
use crate::world::{ACCOUNT, ApiError};

/// Connections at once; more wait. A few hundred long polls and their clients fit.
const CONNECTIONS_MAX: usize = 1_024;
/// Bytes of a body: a batch of SQS is at most 1 MiB, which JSON may write six times as long.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// For the head of a request, which is also how long an idle connection is kept.
const HEAD_MAX: Duration = Duration::from_secs(120);
/// For a whole request to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// An answer that is not given: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
struct Dropped;

type Answer = Response<Full<Bytes>>;

/// Accepts connections until it is dropped; then they end too.
pub(super) async fn serve(listener: TcpListener, address: SocketAddr, region: Arc<Region>) {
    let mut connections = JoinSet::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        _ = stream.set_nodelay(true);
        let region = Arc::clone(&region);
        connections.spawn(async move {
            let service = service_fn(|request| handle(&region, address, request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection ended");
            }
            drop(slot);
        });
    }
}

/// No answer is given before everything it reports is on disk.
async fn handle(region: &Region, address: SocketAddr, request: Request<Incoming>) -> Result<Answer, Dropped> {
    let mut answer = answer(region, address, request).await?;
    region.settled().await.map_err(|Broken| Dropped)?;
    // The region's time, as AWS tells its own.
    let now = Timestamp::from_millisecond(region.now_ms().cast_signed()).ok();
    let date = now.and_then(|now| DateTimePrinter::new().timestamp_to_rfc9110_string(&now).ok());
    if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
        answer.headers_mut().insert(DATE, date);
    }
    Ok(answer)
}

async fn answer(region: &Region, address: SocketAddr, request: Request<Incoming>) -> Result<Answer, Dropped> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let body = match tokio::time::timeout(ARRIVAL_MAX, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Ok(plain(413, "the body is too large or broken")),
        Err(_) => return Ok(plain(408, "the body did not arrive")),
    };
    if let Some(path) = path.strip_prefix("/_region") {
        return Ok(controlled(
            region,
            &head.method,
            path.trim_start_matches('/'),
            &query,
            &head.headers,
            &body,
        ));
    }
    if let Some(path) = path.strip_prefix("/imds/") {
        return Ok(metadata(region, Reader::Outside, &head.method, path, &head.headers));
    }
    // A client that puts a path behind an address that ends with a slash is understood by the real service
    // too.
    let plain_path = path.replace("//", "/");
    if imds::is_versioned(&plain_path) {
        let path = plain_path;
        return Ok(match imds::alone(region) {
            Ok(id) => metadata(region, Reader::Guest, &head.method, &format!("{id}{path}"), &head.headers),
            Err(running) => plain(
                404,
                &format!(
                    "the metadata of which instance? {running} run here: /imds/<instance>/latest/, or only one"
                ),
            ),
        });
    }
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b)));
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let Some(call) = Call::read(target, &head.method, &query, &body) else {
        return Ok(plain(
            404,
            "this is a simulated region: EC2, SQS, STS, EventBridge, SSM and ELBv2; /_region/ to control it",
        ));
    };
    let action = call.action.clone();
    let is_look = ec2::is_look(&action) || action == "ReceiveMessage";
    let latency = region.latency(&action, is_look);
    let fault = region.strike(&action, is_look);
    pause(latency * 2 / 3).await;
    if let Some(Fault::Delay(delay)) = &fault {
        pause(*delay).await;
    }
    let answer = match &fault {
        Some(Fault::LostRequest) => return Err(Dropped),
        Some(Fault::Before(code)) => call.refused(region, code, "injected, without effect"),
        _ => call.made(region, &host).await,
    };
    let answer = match &fault {
        Some(Fault::After(code)) => call.refused(region, code, "injected, after the effect"),
        Some(Fault::LostReply) => return Err(Dropped),
        _ => answer,
    };
    pause(latency / 3).await;
    Ok(answer)
}

async fn pause(length: Duration) {
    if !length.is_zero() {
        tokio::time::sleep(length).await;
    }
}

/// The service of a call, which also decides the form of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Ec2,
    Sts,
    Sqs,
    Events,
    Ssm,
    Elb,
    /// Another service's JSON.
    UnknownJson,
    /// Another service's query protocol.
    UnknownQuery,
}

struct Call {
    service: Service,
    action: String,
    /// The query protocol's.
    version: Option<String>,
    body: Bytes,
}

impl Call {
    fn read(target: Option<&str>, method: &Method, query: &str, body: &Bytes) -> Option<Self> {
        if let Some(target) = target {
            let (prefix, action) = target.rsplit_once('.')?;
            let service = match prefix {
                "AmazonSQS" => Service::Sqs,
                "AWSEvents" => Service::Events,
                "AmazonSSM" => Service::Ssm,
                _ => Service::UnknownJson,
            };
            return Some(Self { service, action: action.to_owned(), version: None, body: body.clone() });
        }
        let body = match *method {
            Method::POST => body.clone(),
            Method::GET => Bytes::copy_from_slice(query.as_bytes()),
            _ => return None,
        };
        let of = |name: &str| {
            let mut pairs = form_urlencoded::parse(&body);
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let action = of("Action")?;
        let version = of("Version");
        let service = match version.as_deref() {
            Some("2011-06-15") => Service::Sts,
            Some(elb::VERSION) => Service::Elb,
            None | Some("2016-11-15") => Service::Ec2,
            // Old versions of EC2's own protocol differ in nothing that is used here.
            Some(version)
                if version.starts_with("20")
                    && version < "2016-11-16"
                    && (version.ends_with("-15") || ec2::actions().any(|known| known == action)) =>
            {
                Service::Ec2
            }
            Some(_) => Service::UnknownQuery,
        };
        Some(Self { service, action, version, body })
    }

    async fn made(&self, region: &Region, host: &str) -> Answer {
        match self.service {
            Service::Ec2 => {
                let params = match Params::parse(&self.body) {
                    Ok(params) => params,
                    Err(refusal) => return self.ec2_error(region, &refusal),
                };
                let answer = region.ec2(&self.action, &self.body, &params);
                let ignored = params.ignored();
                match answer {
                    Ok(element) => {
                        self.record(region, 200, "", ignored);
                        let id = region.fresh_id();
                        let element = Element::new().with("requestId", &id).joined(element);
                        let root = format!("{}Response", self.action);
                        xml(200, element.document(&root, Some(ec2::NAMESPACE)), &id)
                    }
                    Err(refusal) => self.ec2_error(region, &refusal),
                }
            }
            Service::Sts if self.action == "GetCallerIdentity" => self.caller_identity(region),
            Service::Elb => {
                let answer = Params::parse(&self.body).and_then(|params| {
                    let answer = region.elb(&self.action, &self.body, &params)?;
                    self.record(region, 200, "", params.ignored());
                    Ok(answer)
                });
                match answer {
                    Ok(result) => {
                        let id = region.fresh_id();
                        let result = Element::new().inside(format!("{}Result", self.action), result);
                        let metadata = Element::new().with("RequestId", &id);
                        let element = result.inside("ResponseMetadata", metadata);
                        let root = format!("{}Response", self.action);
                        xml(200, element.document(&root, Some(elb::NAMESPACE)), &id)
                    }
                    Err(refusal) => self.refused(region, &refusal.code, &refusal.message),
                }
            }
            Service::Sts => self.refused(region, "InvalidAction", "this region knows GetCallerIdentity only"),
            Service::Sqs => {
                let answer = queues::call(region, &self.action, &self.body, host).await;
                self.json(region, answer)
            }
            Service::Events => {
                let answer = events::call(region, &self.action, &self.body);
                let request = serde_json::from_slice(&self.body).unwrap_or_default();
                self.json_with(region, answer, rules::ignored(&self.action, &request))
            }
            Service::Ssm => {
                let request =
                    if self.body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&self.body) };
                let answer = match request {
                    Ok(request) => region.ssm(&self.action, &request),
                    Err(error) => Err(ApiError::new("SerializationException", format!("not JSON: {error}"))),
                };
                match answer {
                    Ok(answer) => self.json(region, Ok(answer)),
                    Err(refusal) => self.refused(region, &refusal.code, &refusal.message),
                }
            }
            Service::UnknownJson | Service::UnknownQuery => {
                let code = match self.service {
                    Service::UnknownQuery => "InvalidAction",
                    _ => "UnknownOperationException",
                };
                let message = match self.version.as_deref() {
                    Some("2012-11-05") => {
                        "this region speaks SQS's JSON protocol only; clients before the end of 2023 speak the older one"
                    }
                    _ => "this region speaks EC2, SQS, STS, EventBridge, SSM and ELBv2",
                };
                self.refused(region, code, message)
            }
        }
    }

    fn caller_identity(&self, region: &Region) -> Answer {
        self.record(region, 200, "", Vec::new());
        let result = Element::new()
            .with("Arn", format!("arn:aws:iam::{ACCOUNT}:user/rehearsal"))
            .with("UserId", "AIDASIMULATED00000000")
            .with("Account", ACCOUNT);
        let id = region.fresh_id();
        let element = Element::new()
            .inside("GetCallerIdentityResult", result)
            .inside("ResponseMetadata", Element::new().with("RequestId", &id));
        let namespace = Some("https://sts.amazonaws.com/doc/2011-06-15/");
        xml(200, element.document("GetCallerIdentityResponse", namespace), &id)
    }

    fn record(&self, region: &Region, status: u16, code: &str, ignored: Vec<String>) {
        region.record(CallRecord {
            at_ms: region.now_ms(),
            action: self.action.clone(),
            status,
            code: code.to_owned(),
            ignored,
        });
    }

    /// An error in the service's own form.
    fn refused(&self, region: &Region, code: &str, message: &str) -> Answer {
        let status = status_of(code);
        match self.service {
            Service::Ec2 => self.ec2_error(region, &ApiError::with_status(status, code, message)),
            Service::Sts | Service::Elb | Service::UnknownQuery => {
                self.record(region, status, code, Vec::new());
                let error = Element::new().with("Type", "Sender").with("Code", code).with("Message", message);
                let id = region.fresh_id();
                let element = Element::new().inside("Error", error).with("RequestId", &id);
                let namespace = match self.service {
                    Service::Elb => elb::NAMESPACE,
                    _ => "https://sts.amazonaws.com/doc/2011-06-15/",
                };
                xml(status, element.document("ErrorResponse", Some(namespace)), &id)
            }
            Service::Sqs | Service::Events | Service::Ssm | Service::UnknownJson => {
                self.record(region, status, code, Vec::new());
                self.json_error(region, status, code, code, message)
            }
        }
    }

    fn ec2_error(&self, region: &Region, refusal: &ApiError) -> Answer {
        self.record(region, refusal.http_status, &refusal.code, Vec::new());
        let error = Element::new().with("Code", &refusal.code).with("Message", &refusal.message);
        let id = region.fresh_id();
        let element =
            Element::new().inside("Errors", Element::new().inside("Error", error)).with("RequestID", &id);
        xml(refusal.http_status, element.document("Response", None), &id)
    }

    fn json(&self, region: &Region, answer: Result<Json, Refusal>) -> Answer {
        self.json_with(region, answer, Vec::new())
    }

    fn json_with(&self, region: &Region, answer: Result<Json, Refusal>, ignored: Vec<String>) -> Answer {
        match answer {
            Ok(answer) => {
                self.record(region, 200, "", ignored);
                self.amz_json(200, &answer, &region.fresh_id())
            }
            Err(refusal) => {
                self.record(region, refusal.status, refusal.code, Vec::new());
                self.json_error(region, refusal.status, refusal.shape, refusal.code, &refusal.message)
            }
        }
    }

    /// SQS speaks version 1.0 of AWS's JSON, the others 1.1.
    fn amz_json(&self, status: u16, body: &Json, request_id: &str) -> Answer {
        let kind = match self.service {
            Service::Sqs => "application/x-amz-json-1.0",
            _ => "application/x-amz-json-1.1",
        };
        with_request_id(response(status, kind, body.to_string()), request_id)
    }

    /// SQS names its shapes in full, and beside them the older codes.
    fn json_error(&self, region: &Region, status: u16, shape: &str, code: &str, message: &str) -> Answer {
        let is_sqs = self.service == Service::Sqs;
        let prefix = if is_sqs { "com.amazonaws.sqs#" } else { "" };
        let body = json!({ "__type": format!("{prefix}{shape}"), "message": message });
        let mut response = self.amz_json(status, &body, &region.fresh_id());
        let fault = if status < 500 { "Sender" } else { "Receiver" };
        if let Ok(value) = HeaderValue::from_str(&format!("{code};{fault}"))
            && is_sqs
        {
            response.headers_mut().insert(HeaderName::from_static("x-amzn-query-error"), value);
        }
        response
    }
}

/// The status EC2 answers a code with.
fn status_of(code: &str) -> u16 {
    match code {
        "RequestLimitExceeded"
        | "ServiceUnavailable"
        | "Unavailable"
        | "Throttling"
        | "ThrottlingException" => 503,
        "InternalError"
        | "InternalFailure"
        | "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientVolumeCapacity"
        | "InsufficientAddressCapacity" => 500,
        _ => 400,
    }
}

fn response(status: u16, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn plain(status: u16, text: &str) -> Answer {
    response(status, "text/plain", text.to_owned())
}

fn xml(status: u16, document: String, request_id: &str) -> Answer {
    with_request_id(response(status, "text/xml;charset=UTF-8", document), request_id)
}

/// The request's id in the header, where some clients read it; others read the one in the body.
fn with_request_id(mut response: Answer, id: &str) -> Answer {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    response
}

fn controlled(
    region: &Region,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    // A page in a browser can post to loopback, but not with this type unless it is asked for leave first.
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let answer = if *method != Method::GET && !kind.starts_with("application/json") {
        Err(ApiError::with_status(415, "UnsupportedMediaType", "send Content-Type: application/json"))
    } else {
        control::call(region, method.as_str(), path, query, body)
    };
    match answer {
        Ok(answer) => response(200, "application/json", format!("{answer}\n")),
        Err(refusal) => {
            let body = json!({ "error": refusal.code, "message": refusal.message });
            response(refusal.http_status, "application/json", format!("{body}\n"))
        }
    }
}

/// How long a token of the metadata service is good for.
const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

fn metadata(region: &Region, reader: Reader, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    let token = headers.get("x-aws-ec2-metadata-token").and_then(|token| token.to_str().ok());
    let answer = match *method {
        Method::GET => imds::get(region, reader, path, token),
        Method::PUT => imds::token(path, headers.get(TTL).and_then(|ttl| ttl.to_str().ok())),
        _ => Err(405),
    };
    match answer {
        Ok(text) => {
            let mut response = plain(200, &text);
            if path.trim_end_matches('/').ends_with("/user-data") {
                *response.body_mut() = Full::new(Bytes::from(ec2::user_data_bytes(&text)));
            }
            let asked = headers.get(TTL).cloned().filter(|_| *method == Method::PUT);
            response.headers_mut().insert(TTL, asked.unwrap_or(HeaderValue::from_static("21600")));
            response
        }
        Err(status) => plain(status, ""),
    }
}
