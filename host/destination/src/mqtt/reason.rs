//! What the reason codes of MQTT 5 and the errors of a connection mean for a
//! delivery and for a lane. Source of the codes: MQTT 5.0, sections 3.2.2.2,
//! 3.4.2.1, 3.9.3 and 3.14.2.1.

use std::io;

use message::text::{SAID, one_line};
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{
    ConnectReturnCode, ConnectionError, DisconnectReasonCode, PubAck, PubAckReason, StateError,
    SubscribeNoticeError, SubscribeReasonCode, TlsError,
};

use crate::{Cause, Fault, Reply, Verdict};

/// The fate of a publish by its PUBACK.
pub fn of_puback(ack: &PubAck) -> Verdict {
    let text = || match ack.properties.as_ref().and_then(|p| p.reason_string.as_deref()) {
        Some(said) => {
            let said = one_line(said, SAID);
            format!("PUBACK {:#04x} {}: {said}", ack.reason as u8, puback_name(ack.reason))
        }
        None => format!("PUBACK {:#04x} {}", ack.reason as u8, puback_name(ack.reason)),
    };
    match ack.reason {
        // No client listens at the moment: the server took it all the same.
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Verdict::Delivered,
        PubAckReason::TopicNameInvalid
        | PubAckReason::PayloadFormatInvalid
        // "Not accepted by this implementation", ThingsBoard's answer to a body
        // of the wrong shape: it speaks of the message, not of the moment.
        | PubAckReason::ImplementationSpecificError => Verdict::Refused(Reply(text())),
        PubAckReason::NotAuthorized => Verdict::Deferred(Fault::persistent(Cause::Credentials, text())),
        PubAckReason::QuotaExceeded | PubAckReason::UnspecifiedError | PubAckReason::PacketIdentifierInUse => {
            Verdict::Deferred(Fault::transient(text()))
        }
    }
}

fn puback_name(reason: PubAckReason) -> &'static str {
    match reason {
        PubAckReason::Success => "success",
        PubAckReason::NoMatchingSubscribers => "no matching subscribers",
        PubAckReason::UnspecifiedError => "unspecified error",
        PubAckReason::ImplementationSpecificError => "implementation specific error",
        PubAckReason::NotAuthorized => "not authorised",
        PubAckReason::TopicNameInvalid => "topic name invalid",
        PubAckReason::PacketIdentifierInUse => "packet identifier in use",
        PubAckReason::QuotaExceeded => "quota exceeded",
        PubAckReason::PayloadFormatInvalid => "payload format invalid",
    }
}

/// Why a connection to `place` did not come about.
pub fn of_connect_error(place: &str, error: &ConnectionError) -> Fault {
    if let Some(tls) = tls_error(error) {
        return Fault::persistent(Cause::Tls, format!("{place}: TLS: {tls}"));
    }
    match error {
        ConnectionError::ConnectionRefused(code) => of_refusal(place, *code),
        ConnectionError::Timeout(_) => Fault::transient(format!("{place}: no CONNACK in time")),
        ConnectionError::Io(e) | ConnectionError::Tls(TlsError::Io(e)) => {
            Fault::transient(format!("{place}: cannot connect: {e}"))
        }
        ConnectionError::Tls(e) => Fault::persistent(Cause::Tls, format!("{place}: TLS: {e}")),
        ConnectionError::MqttState(StateError::Io(e) | StateError::Deserialization(CodecError::Io(e))) => {
            Fault::transient(format!("{place}: connection lost before CONNACK: {e}"))
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Fault::transient(format!("{place}: closed before CONNACK"))
        }
        ConnectionError::MqttState(StateError::Deserialization(e)) => Fault::persistent(
            Cause::UnexpectedAnswer,
            format!("{place}: the answer to CONNECT is not MQTT 5: {e}"),
        ),
        ConnectionError::NotConnAck(_) => Fault::persistent(
            Cause::UnexpectedAnswer,
            format!("{place}: the answer to CONNECT is not a CONNACK"),
        ),
        other => Fault::transient(format!("{place}: cannot connect: {other}")),
    }
}

fn of_refusal(place: &str, code: ConnectReturnCode) -> Fault {
    use ConnectReturnCode as C;
    // None: it passes without help.
    let login = Some(Cause::Credentials);
    let settings = Some(Cause::Configuration);
    let odd = Some(Cause::UnexpectedAnswer);
    let (cause, said) = match code {
        C::BadUserNamePassword => (login, "bad user name or password"),
        C::NotAuthorized => (login, "not authorised"),
        C::Banned => (login, "banned"),
        C::BadAuthenticationMethod => (login, "bad authentication method"),
        C::ClientIdentifierNotValid | C::BadClientId => (settings, "client identifier not valid"),
        C::UnsupportedProtocolVersion | C::RefusedProtocolVersion => (odd, "MQTT 5 is not supported"),
        C::ServerMoved => (settings, "server moved"),
        C::MalformedPacket => (odd, "malformed packet"),
        C::ProtocolError => (odd, "protocol error"),
        C::TopicNameInvalid => (odd, "topic name invalid"),
        C::PacketTooLarge => (odd, "packet too large"),
        C::PayloadFormatInvalid => (odd, "payload format invalid"),
        C::RetainNotSupported => (odd, "retain not supported"),
        C::QoSNotSupported => (odd, "QoS not supported"),
        C::ServerUnavailable | C::ServiceUnavailable => (None, "server unavailable"),
        C::ServerBusy => (None, "server busy"),
        C::QuotaExceeded => (None, "quota exceeded"),
        C::ConnectionRateExceeded => (None, "connection rate exceeded"),
        C::UseAnotherServer => (None, "use another server"),
        C::UnspecifiedError => (None, "unspecified error"),
        C::ImplementationSpecificError => (None, "implementation specific error"),
        C::Success => (None, "success, yet refused"),
    };
    let reason = format!("{place}: login refused: {said}");
    match cause {
        None => Fault::transient(reason),
        Some(cause) => Fault::persistent(cause, reason),
    }
}

/// Why a subscription was not granted.
pub fn of_subscribe_error(place: &str, error: &SubscribeNoticeError) -> Fault {
    match error {
        SubscribeNoticeError::V5SubAckFailure(codes) => {
            let reason = format!("{place}: subscription refused: {codes:?}");
            let passes = |c: &SubscribeReasonCode| {
                matches!(
                    c,
                    SubscribeReasonCode::Success(_)
                        | SubscribeReasonCode::QuotaExceeded
                        | SubscribeReasonCode::Unspecified
                        | SubscribeReasonCode::PkidInUse
                )
            };
            if codes.iter().all(passes) {
                Fault::transient(reason)
            } else if codes.contains(&SubscribeReasonCode::NotAuthorized) {
                Fault::persistent(Cause::Credentials, reason)
            } else {
                Fault::persistent(Cause::UnexpectedAnswer, reason)
            }
        }
        other => Fault::transient(format!("{place}: subscription not answered: {other}")),
    }
}

/// Why an open connection ended. `unacknowledged`: whether the receiver had
/// publishes that it had not acknowledged. `refusal`: the text of the last
/// PUBACK where that was not a success: servers refuse and then close, and the
/// publishes beside the refused one are not to blame.
pub fn of_end(place: &str, error: &ConnectionError, unacknowledged: bool, refusal: Option<&str>) -> Fault {
    let explained = match error {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            of_disconnect(place, *reason_code, reason_string.as_deref())
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Fault::unexplained(format!("{place}: closed the connection without a reason"))
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            Fault::unexplained(format!("{place}: fell silent, a ping was not answered"))
        }
        // A PUBACK that no publish waits for. ThingsBoard before 4.2.1 sends one per device.
        ConnectionError::MqttState(StateError::Unsolicited(id)) => {
            Fault::unexplained(format!("{place}: acknowledged packet {id}, which is not in flight"))
        }
        ConnectionError::RequestsDone => {
            Fault::transient(format!("{place}: connection closed by the gateway"))
        }
        other => Fault::unexplained(format!("{place}: connection lost: {other}")),
    };
    if explained.kind != crate::FaultKind::Unexplained {
        return explained;
    }
    match refusal {
        Some(said) => Fault::transient(format!("{} (after {said})", explained.reason)),
        None if unacknowledged => explained,
        None => Fault::transient(explained.reason),
    }
}

fn of_disconnect(place: &str, code: DisconnectReasonCode, said: Option<&str>) -> Fault {
    use DisconnectReasonCode as D;
    let mut reason = format!("{place}: DISCONNECT {:#04x} {code:?}", code as u8);
    if let Some(said) = said {
        reason.push_str(": ");
        reason.push_str(&one_line(said, SAID));
    }
    match code {
        D::NotAuthorized => Fault::persistent(Cause::Credentials, reason),
        // Another client with this client id: neither of the two gets anything done.
        D::SessionTakenOver => Fault::persistent(Cause::TakenOver, reason),
        D::ServerMoved => Fault::persistent(Cause::Configuration, reason),
        D::ServerBusy
        | D::ServerShuttingDown
        | D::KeepAliveTimeout
        | D::MessageRateTooHigh
        | D::QuotaExceeded
        | D::AdministrativeAction
        | D::UseAnotherServer
        | D::ConnectionRateExceeded
        | D::MaximumConnectTime => Fault::transient(reason),
        // Malformed, too large, topic or payload not accepted, ...: a publish
        // may well be the cause, and the code does not say which.
        _ => Fault::unexplained(reason),
    }
}

/// The TLS error inside an error of the library, wherever it hides: with TLS
/// 1.3 a refused client certificate arrives only with the first read.
fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    let io: &io::Error = match error {
        ConnectionError::Tls(TlsError::TLS(e)) => return Some(e),
        ConnectionError::Tls(TlsError::Io(e)) | ConnectionError::Io(e) => e,
        ConnectionError::MqttState(StateError::Io(e) | StateError::Deserialization(CodecError::Io(e))) => e,
        _ => return None,
    };
    io.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use rumqttc::PubAckProperties;

    use super::*;
    use crate::FaultKind;

    fn ack(reason: PubAckReason) -> PubAck {
        PubAck { pkid: 1, reason, properties: None }
    }

    #[test]
    fn every_reason_of_a_puback() {
        use PubAckReason as R;
        for reason in [R::Success, R::NoMatchingSubscribers] {
            assert_eq!(of_puback(&ack(reason)), Verdict::Delivered);
        }
        for reason in [R::TopicNameInvalid, R::PayloadFormatInvalid, R::ImplementationSpecificError] {
            assert!(matches!(of_puback(&ack(reason)), Verdict::Refused(_)), "{reason:?}");
        }
        for (reason, kind) in [
            (R::NotAuthorized, FaultKind::Persistent),
            (R::QuotaExceeded, FaultKind::Transient),
            (R::UnspecifiedError, FaultKind::Transient),
            (R::PacketIdentifierInUse, FaultKind::Transient),
        ] {
            assert!(matches!(of_puback(&ack(reason)), Verdict::Deferred(f) if f.kind == kind), "{reason:?}");
        }
    }

    #[test]
    fn a_refusal_repeats_the_words_of_the_server() {
        let mut ack = ack(PubAckReason::PayloadFormatInvalid);
        ack.properties = Some(PubAckProperties {
            reason_string: Some("not JSON".to_owned()),
            user_properties: Vec::new(),
        });
        assert_eq!(
            of_puback(&ack),
            Verdict::Refused(Reply("PUBACK 0x99 payload format invalid: not JSON".to_owned()))
        );
        ack.properties.as_mut().unwrap().reason_string = Some("\u{1b}[2J".repeat(20_000));
        let Verdict::Refused(Reply(long)) = of_puback(&ack) else { panic!("refused") };
        assert!(long.len() < 400 && !long.contains('\u{1b}'), "{long}");
    }

    #[test]
    fn a_close_is_blamed_on_what_is_in_flight_only_when_nothing_else_explains_it() {
        let closed = ConnectionError::MqttState(StateError::ConnectionAborted);
        assert_eq!(of_end("p", &closed, true, None).kind, FaultKind::Unexplained);
        assert_eq!(of_end("p", &closed, false, None).kind, FaultKind::Transient);
        assert_eq!(of_end("p", &closed, true, Some("PUBACK 0x97")).kind, FaultKind::Transient);
    }

    #[test]
    fn the_reasons_of_a_disconnect() {
        use DisconnectReasonCode as D;
        let kind = |reason_code| {
            let error =
                ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string: None });
            of_end("p", &error, true, None).kind
        };
        for code in [D::NotAuthorized, D::SessionTakenOver, D::ServerMoved] {
            assert_eq!(kind(code), FaultKind::Persistent, "{code:?}");
        }
        for code in [D::QuotaExceeded, D::ServerShuttingDown, D::MessageRateTooHigh, D::AdministrativeAction]
        {
            assert_eq!(kind(code), FaultKind::Transient, "{code:?}");
        }
        for code in [D::UnspecifiedError, D::MalformedPacket, D::PacketTooLarge, D::PayloadFormatInvalid] {
            assert_eq!(kind(code), FaultKind::Unexplained, "{code:?}");
        }
    }

    #[test]
    fn an_operator_is_told_where_to_look() {
        use ConnectReturnCode as C;
        for (code, cause) in [
            (C::BadUserNamePassword, Cause::Credentials),
            (C::Banned, Cause::Credentials),
            (C::BadClientId, Cause::Configuration),
            (C::UnsupportedProtocolVersion, Cause::UnexpectedAnswer),
        ] {
            assert_eq!(of_refusal("p", code).cause, Some(cause), "{code:?}");
        }
        assert_eq!(of_refusal("p", C::ServerBusy).cause, None);
        use DisconnectReasonCode as D;
        assert_eq!(of_disconnect("p", D::SessionTakenOver, None).cause, Some(Cause::TakenOver));
    }

    #[test]
    fn a_refused_login_needs_an_operator_unless_the_server_is_only_busy() {
        use ConnectReturnCode as C;
        for code in [C::BadUserNamePassword, C::NotAuthorized, C::ClientIdentifierNotValid, C::Banned] {
            assert_eq!(of_refusal("p", code).kind, FaultKind::Persistent, "{code:?}");
        }
        for code in [C::ServerBusy, C::ServerUnavailable, C::QuotaExceeded, C::ConnectionRateExceeded] {
            assert_eq!(of_refusal("p", code).kind, FaultKind::Transient, "{code:?}");
        }
    }
}
