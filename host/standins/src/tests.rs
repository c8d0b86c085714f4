//! The stand-ins through real sockets and real clients.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::{
    AsyncClient, Broker, Event, EventLoop, Incoming, MqttOptions, PublishOptions, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::aws::AwsStandin;
use super::certificates::{Authority, Identity, server_config};
use super::http::HttpStandin;
use super::mqtt::{Mode, MqttStandin};
use super::mqtt_server::Reply;
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn client(port: u16, tls: Option<TlsConfiguration>) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("test", Broker::tcp("localhost", port));
    options.set_keep_alive(5).set_clean_start(true);
    if let Some(tls) = tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    AsyncClient::builder(options).capacity(10).build()
}

/// Polls until `wanted` finds what it looks for; an error of the connection
/// is the other way to end.
async fn until<T>(
    eventloop: &mut EventLoop,
    wanted: impl Fn(&Packet) -> Option<T>,
) -> Result<T, rumqttc::ConnectionError> {
    let search = async {
        loop {
            if let Event::Incoming(packet) = eventloop.poll().await?
                && let Some(found) = wanted(&packet)
            {
                return Ok(found);
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap()
}

fn puback(packet: &Packet) -> Option<PubAckReason> {
    match packet {
        Incoming::PubAck(ack) => Some(ack.reason),
        _ => None,
    }
}

fn tls(authority: &Authority, identity: Option<&Identity>) -> TlsConfiguration {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConfiguration::from(config)
}

#[tokio::test]
async fn an_mqtt_receiver_acknowledges_refuses_and_hangs_up() {
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let (client, mut eventloop) = client(standin.port(), None);
    let publish = |text: &'static str| {
        let client = client.clone();
        async move { client.publish("fleet/1", text, PublishOptions::new(QoS::AtLeastOnce)).await.unwrap() }
    };

    publish("one").await;
    assert_eq!(until(&mut eventloop, puback).await.unwrap(), PubAckReason::Success);
    standin.set_mode(Mode::RefuseText("bad".to_owned(), PubAckReason::PayloadFormatInvalid));
    publish("bad").await;
    assert_eq!(until(&mut eventloop, puback).await.unwrap(), PubAckReason::PayloadFormatInvalid);
    publish("good").await;
    assert_eq!(until(&mut eventloop, puback).await.unwrap(), PubAckReason::Success);
    standin.set_mode(Mode::Reply(Reply::Close));
    publish("two").await;
    assert!(until(&mut eventloop, puback).await.is_err());

    let payloads = |received: &Received| match received {
        Received::Publish { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(inbox.all().iter().map(payloads).collect::<Vec<_>>(), ["one", "good"]);
    assert_eq!(standin.plug().connections(), 1);
}

#[tokio::test]
async fn aws_wants_a_client_certificate_and_publishes_rejections() {
    let authority = Authority::new("test authority").unwrap();
    let server = authority.server(&["localhost"]).unwrap();
    let inbox = Inbox::default();
    let config = server_config(&server, Some(&authority), &[]).unwrap();
    let standin = AwsStandin::start(inbox.clone(), config).await.unwrap();

    let (_, mut stranger) = client(standin.port(), Some(tls(&authority, None)));
    assert!(until(&mut stranger, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await.is_err());

    let identity = authority.client("gateway").unwrap();
    let (client, mut eventloop) = client(standin.port(), Some(tls(&authority, Some(&identity))));
    client.subscribe("$aws/things/+/shadow/update/rejected", QoS::AtLeastOnce).await.unwrap();
    until(&mut eventloop, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await.unwrap();
    let options = || PublishOptions::new(QoS::AtLeastOnce);
    let topic = "$aws/things/car-1/shadow/update";
    let good = r#"{"state":{"reported":{"speed":50}},"clientToken":"a"}"#;
    client.publish(topic, good, options()).await.unwrap();
    assert_eq!(until(&mut eventloop, puback).await.unwrap(), PubAckReason::Success);
    client.publish(topic, r#"{"state":{"other":{}},"clientToken":"b"}"#, options()).await.unwrap();
    let rejected = |packet: &Packet| match packet {
        Packet::Publish(publish) => Some((publish.topic.clone(), publish.payload.clone())),
        _ => None,
    };
    let (topic, body) = until(&mut eventloop, rejected).await.unwrap();
    assert_eq!(topic, "$aws/things/car-1/shadow/update/rejected");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["code"], &body["clientToken"]), (&json!(400), &json!("b")));
    assert_eq!(standin.shadow("car-1", None), Some(json!({ "reported": { "speed": 50 } })));
    assert_eq!(inbox.violations().len(), 1, "{:?}", inbox.violations());
}

#[tokio::test]
async fn an_http_receiver_takes_lists_and_refuses_what_it_is_told_to() {
    use super::http::Mode;

    let inbox = Inbox::default();
    let standin = HttpStandin::start(inbox.clone(), None).await.unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let url = format!("http://{}/in?x=1", standin.address());
    let post = |body: &'static str| {
        let request = Request::post(url.as_str()).header("content-type", "application/json");
        client.request(request.body(Full::from(body)).unwrap())
    };

    assert_eq!(post(r#"[{"a":1},{"a":2}]"#).await.unwrap().status(), 200);
    assert_eq!(post(r#"{"a":1}"#).await.unwrap().status(), 400);
    standin.set_mode(Mode::RefuseText("poison".to_owned()));
    let refused = post(r#"[{"ident":"7","b":"poison"}]"#).await.unwrap();
    assert_eq!(refused.status(), 400);
    let reason = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(reason, "the message of 7 is not acceptable");
    standin.set_mode(Mode::Status(503, Some(3)));
    let busy = post(r#"[{"a":3}]"#).await.unwrap();
    assert_eq!((busy.status().as_u16(), &busy.headers()["retry-after"]), (503, &"3".parse().unwrap()));
    standin.set_mode(Mode::Close);
    assert!(post(r#"[{"a":3}]"#).await.is_err());

    let all = inbox.all();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(matches!(&all[0], Received::Request { target, objects, .. }
            if target == "/in?x=1" && *objects == [json!({ "a": 1 }), json!({ "a": 2 })]));
    assert_eq!(inbox.violations(), ["http: /in?x=1: the body is not a list"]);
}
