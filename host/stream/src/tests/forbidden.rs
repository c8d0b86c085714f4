//! Deliveries of several messages that the destination's rules forbid, and what
//! becomes of their messages.

use journal::ReadRules;

use super::*;
use crate::entry::OutgoingDelivery;

/// One delivery for the whole batch, with all payloads one behind the other.
const JOINS: &str = "
    (local $i i32) (local $at i32) (local $body i32) (local $len i32) (local $list i32)
    (local.set $body (call $alloc (i32.const 16384)))
    (local.set $list (call $alloc (i32.mul (local.get $n) (i32.const 4))))
    (loop $next
      (local.set $at (i32.add (local.get $batch) (i32.mul (local.get $i) (i32.const 24))))
      (memory.copy (i32.add (local.get $body) (local.get $len))
        (i32.load offset=8 (local.get $at)) (i32.load offset=12 (local.get $at)))
      (local.set $len (i32.add (local.get $len) (i32.load offset=12 (local.get $at))))
      (i32.store (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 4))) (local.get $i))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (local.set $at (call $alloc (i32.const 36)))
    (call $delivery (local.get $at) (i32.const 0) (local.get $body) (local.get $len))
    (i32.store (local.get $at) (local.get $list))
    (i32.store offset=4 (local.get $at) (local.get $n))
    (call $mapping (local.get $at) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";

/// Four deliveries for the whole batch, all of them forbidden.
const MULTIPLIES: &str = "
    (local $i i32) (local $at i32) (local $list i32) (local $deliveries i32)
    (i32.store8 (i32.const 100) (i32.const 35))
    (local.set $list (call $alloc (i32.mul (local.get $n) (i32.const 4))))
    (loop $next
      (i32.store (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 4))) (local.get $i))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (local.set $deliveries (call $alloc (i32.const 144)))
    (local.set $i (i32.const 0))
    (loop $next
      (local.set $at (i32.add (local.get $deliveries) (i32.mul (local.get $i) (i32.const 36))))
      (call $delivery (local.get $at) (i32.const 0) (i32.const 100) (i32.const 1))
      (i32.store (local.get $at) (local.get $list))
      (i32.store offset=4 (local.get $at) (local.get $n))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 4))))
    (call $mapping (local.get $deliveries) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";

async fn mapped<'a>(transform: &str, texts: impl IntoIterator<Item = &'a str>) -> map::Mapped {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script(transform).await);
    let batch = texts.into_iter().zip(0..).map(|(text, index)| entry(index, text)).collect();
    shared.map_step(0).map(batch, 0).await
}

#[tokio::test]
async fn a_message_takes_no_other_along_that_is_in_the_same_delivery() {
    let mapped = mapped(JOINS, ["a", "b", "c", "#", "d", "e", "f", "g"]).await;
    let bodies: Vec<_> = mapped.outgoing.iter().map(|p| &p.delivery.body[..]).collect();
    assert_eq!(bodies, [&b"ab"[..], b"c", b"defg"], "in their order");
    let [(forbidden, reason)] = &mapped.forbidden[..] else { panic!("{:?}", mapped.forbidden) };
    let positions: Vec<_> = forbidden.carries.iter().map(|e| e.position.index).collect();
    assert_eq!((&forbidden.delivery.body[..], positions), (&b"#"[..], vec![3]));
    assert_eq!(reason, "a body with a #");
    let identities: Vec<_> =
        mapped.outgoing.iter().map(|p| p.delivery.identity.clone().unwrap().key).collect();
    assert!(identities[0] != identities[1] && identities[1] != identities[2]);
}

#[tokio::test(start_paused = true)]
async fn the_others_of_a_forbidden_delivery_arrive_in_their_order() {
    let running = start(JOINS, FarSide::new(Mood::Accepts, 8), 1).await;
    running.journal.pause(StreamIndex(0), true).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut bodies = numbered(100);
    for bad in [0, 40, 41, 99] {
        bodies[bad] = format!("#{bad:04}");
    }
    running.append(bodies.clone()).await;
    running.journal.pause(StreamIndex(0), false).await.unwrap();
    running.until(|b| b.queued == 0).await;
    assert_eq!((running.counters().delivered, running.counters().dead_lettered), (96, 4));
    let letters = running.journal.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.len(), 4);
    for (_, _, letter) in letters {
        assert_eq!(letter.delivery.unwrap().body, letter.message.payload, "of itself alone");
    }
    bodies.retain(|body| !body.starts_with('#'));
    assert_eq!(running.finish().await.concat(), bodies.concat());
}

#[tokio::test]
async fn a_script_that_multiplies_what_is_forbidden_comes_to_an_end() {
    let texts: Vec<String> = (0..16).map(|n| n.to_string()).collect();
    let mapped = mapped(MULTIPLIES, texts.iter().map(String::as_str)).await;
    assert!(mapped.outgoing.is_empty());
    // Each of 32 splits makes eight of one; splitting all would make 16,384.
    assert_eq!(mapped.forbidden.len(), 4 + 32 * 7);
}

#[tokio::test]
async fn a_delivery_is_kept_once_however_many_messages_die_with_it() {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script(JOINS).await);
    let message = |n: u32| Message { topic: "t".into(), payload: n.to_string().into(), received_at: 7 };
    let batch = (0..4).map(|n| Append { message: message(n), streams: vec![StreamIndex(0)] }).collect();
    let _ticket = shared.journal.append(batch).await;
    let pending = shared.journal.reader(StreamIndex(0), ReadRules::default()).next(4).await;
    let rule = Arc::new(KeyRule::Topic);
    let entries: Vec<_> = pending.into_iter().map(|p| Entry::new(p, rule.clone())).collect();
    let outgoing = |body: &str, carries: &[Arc<Entry>]| OutgoingDelivery {
        delivery: Delivery {
            target: None,
            headers: Vec::new(),
            body: body.to_owned().into(),
            identity: None,
        },
        carries: carries.to_vec(),
        origin: Arc::default(),
        ordinal: 0,
    };
    let large = "x".repeat(100_000);
    let (first, second) = (outgoing(&large, &entries[..3]), outgoing("other", &entries[2..]));
    let mut endings = shared.endings();
    endings.begin(&first);
    endings.begin(&second);
    endings.dead(&first, "refused", Some(&Reply("413 too large".to_owned())));
    endings.dead(&second, "forbidden", None);
    endings.flush();

    assert_eq!(shared.journal.counters(StreamIndex(0)).dead_lettered, 4);
    let mut letters = shared.journal.dead_letters(DeadLetterFilter::default()).await.unwrap();
    letters.sort_by_key(|(_, _, letter)| letter.position);
    let kept: Vec<_> = letters.iter().map(|(_, _, l)| l.delivery.as_ref().map(|d| d.body.len())).collect();
    assert_eq!(kept, [Some(100_000), None, None, Some(5)]);
    let words: Vec<_> = letters.iter().map(|(_, _, l)| (l.reason.as_str(), l.reply.as_deref())).collect();
    let with = format!("refused (with message {}, whose dead letter has the delivery)", entries[0].position);
    let reply = Some("413 too large");
    let with = with.as_str();
    assert_eq!(words, [("refused", reply), (with, reply), (with, reply), ("forbidden", None)]);
}
