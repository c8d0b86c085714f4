//! The client of the admin listener.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Refusal;
use super::token::{self, AdminToken, TokenError};

/// For one answer. A rewind looks at every message that the journal has kept.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of one answer: dead letters with base64 and escapes fit.
const MAX_ANSWER: usize = 64 << 20;

/// The admin listener of a gateway.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    /// The gateway's data folder with the token.
    data: PathBuf,
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

/// Why a call of the gateway failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it ended.
    #[error("the gateway at {address} does not answer: {reason}")]
    Silent {
        /// Its admin listener.
        address: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// The token cannot be read here.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token that was read here is not that gateway's.
    #[error(
        "the gateway at {address} does not accept the token in {}: another gateway listens there, or it \
         uses another data folder (check `data` and [admin] `listen` in the configuration)",
        file.display()
    )]
    WrongToken {
        /// Its admin listener.
        address: SocketAddr,
        /// Where the token was read.
        file: PathBuf,
    },
    /// The gateway refused the request.
    #[error("{0}")]
    Refused(String),
    /// Something else listens there, or another version.
    #[error("the server at {address} is not a gateway of this version: {what}")]
    Strange {
        /// The address.
        address: SocketAddr,
        /// The answer, in short.
        what: String,
    },
}

impl Client {
    /// A client of the gateway that listens at `address`.
    pub fn new(address: SocketAddr, data: PathBuf) -> Self {
        Self { address, data, http: HttpClient::builder(TokioExecutor::new()).build_http() }
    }

    /// Reads a path that needs no token.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None, Bytes::new()).await
    }

    /// Calls a path that needs the token.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| self.strange(e.to_string()))?,
            None => Vec::new(),
        };
        self.send(method, path, body.into()).await
    }

    /// The same with a body as it is.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let token = AdminToken::read(&self.data)?;
        self.ask(method, path, Some(&token), body).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&AdminToken>,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        let request = request.body(Full::new(body)).map_err(|e| self.strange(e.to_string()))?;
        let answer = async {
            let response = self.http.request(request).await.map_err(|error| {
                // What hyper says itself is "client error"; its cause says more.
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                self.silent(cause)
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| self.silent(error.to_string()))?.to_bytes()))
        };
        let (status, body) = timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| Err(self.silent(format!("no answer for {} s", PATIENCE.as_secs()))))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.strange(error.to_string()));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(_) if status == StatusCode::UNAUTHORIZED => {
                Err(ClientError::WrongToken { address: self.address, file: token::path(&self.data) })
            }
            Ok(refusal) => Err(ClientError::Refused(refusal.error)),
            Err(_) => Err(self.strange(format!("{path} answers {status}"))),
        }
    }

    fn silent(&self, reason: String) -> ClientError {
        ClientError::Silent { address: self.address, reason }
    }

    fn strange(&self, what: String) -> ClientError {
        ClientError::Strange { address: self.address, what }
    }
}
