//! One request to the admin listener.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Status and body of a page; an error while there is no answer.
pub async fn get(port: u16, path: &str) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    ask(port, Request::get(path)).await
}

/// The same of a call without a body, with the token that it needs.
pub async fn post(
    port: u16,
    path: &str,
    token: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    ask(port, Request::post(path).header(header::AUTHORIZATION, format!("Bearer {token}"))).await
}

async fn ask(port: u16, request: Builder) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header(header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
