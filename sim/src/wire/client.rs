//! A client of the control surface: one request a connection. For commands and tests; AWS calls are for AWS's
//! clients.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

/// For a whole request: the region answers from memory.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer: the dump of a region with ten thousand instances is smaller.
const BODY_MAX: usize = 256 * 1024 * 1024;

/// Why a request to the region failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// This is no endpoint of a region.
    #[error("{endpoint:?} is no endpoint of a region; it looks like http://127.0.0.1:4566")]
    Endpoint {
        /// The given text.
        endpoint: String,
    },
    /// No server answers there, or it is no region.
    #[error("no simulated region answers at {endpoint}: {why}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// The region refuses.
    #[error("{code}: {message}")]
    Refused {
        /// The code, as EC2 has it where it is EC2's.
        code: String,
        /// Why.
        message: String,
    },
}

/// The control surface of a region. Cheap to clone; connects for each request.
#[derive(Debug, Clone)]
pub struct RegionClient {
    /// Host and port.
    authority: String,
}

impl RegionClient {
    /// The region at an endpoint such as `http://127.0.0.1:4566`. Does not connect yet.
    ///
    /// # Errors
    /// [`ControlError::Endpoint`].
    pub fn new(endpoint: &str) -> Result<Self, ControlError> {
        let authority = endpoint.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority.and_then(|authority| authority.parse::<hyper::http::uri::Authority>().ok()) {
            Some(authority) if authority.port().is_some() => Ok(Self { authority: authority.to_string() }),
            // As any client takes it.
            Some(authority) if !authority.host().is_empty() && !authority.as_str().ends_with(':') => {
                Ok(Self { authority: format!("{authority}:80") })
            }
            _ => Err(ControlError::Endpoint { endpoint: endpoint.to_owned() }),
        }
    }

    /// Reads a path, such as `dump` or `leaks?owner=default`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn get(&self, path: &str) -> Result<Json, ControlError> {
        self.ask(Method::GET, path, None).await
    }

    /// The objects of an owner that are not expected.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn leaks(&self, owner: &str, expected: &[String]) -> Result<Json, ControlError> {
        let mut query = form_urlencoded::Serializer::new(String::from("leaks?"));
        query.append_pair("owner", owner).extend_pairs(expected.iter().map(|id| ("expected", id)));
        self.get(&query.finish()).await
    }

    /// Does something, such as `interrupt`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn post(&self, path: &str, body: &Json) -> Result<Json, ControlError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Undoes something, such as `faults`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn delete(&self, path: &str) -> Result<Json, ControlError> {
        self.ask(Method::DELETE, path, None).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Json, ControlError> {
        let asked = tokio::time::timeout(ANSWER_MAX, self.exchange(method, path, body)).await;
        let why = match asked {
            Ok(Ok(answer)) => return answer,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", ANSWER_MAX.as_secs()),
        };
        Err(ControlError::Unreachable { endpoint: format!("http://{}", self.authority), why })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Result<Json, ControlError>, String> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let text = body.map(Json::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("/_region/{path}"))
            .header("host", &self.authority)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        drop(sender);
        connection.abort();
        let json: Json = serde_json::from_slice(&body)
            .map_err(|_| format!("something else is there: it says {status} and no JSON"))?;
        if status.is_success() {
            return Ok(Ok(json));
        }
        match (json["error"].as_str(), json["message"].as_str()) {
            (Some(code), Some(message)) => {
                Ok(Err(ControlError::Refused { code: code.to_owned(), message: message.to_owned() }))
            }
            _ => Err(format!("something else is there: it says {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_scheme_and_a_host() {
        for good in ["http://127.0.0.1:4566", "http://localhost:80/", "http://[::1]:1", "http://localhost"] {
            assert!(RegionClient::new(good).is_ok(), "{good}");
        }
        for bad in ["https://127.0.0.1:1", "127.0.0.1:1", "http://a b:1", "http://localhost:", "http://", ""]
        {
            assert!(RegionClient::new(bad).is_err(), "{bad}");
        }
    }
}
