//! Lanes that have nothing to do.

use super::*;

/// An engine for no lanes has this many places for instances.
const PLACES: u32 = 16;

fn crowd(engine: &Engine, wasm: &Bytes, lanes: u32) -> Running {
    let far = FarSide::new(Mood::Accepts, 8);
    let destination = Arc::new(FarSideDestination(far.clone()));
    let journal = Journal::simulated(Simulated::new(1));
    let source = source(wasm.clone(), Limits::default());
    start_stream_on(engine, destination, journal, Pressure::default(), source, far, lanes)
}

/// Seen from outside: as long as the lanes of one stream keep their instances,
/// there is no place for that of another; ten seconds after their last batch
/// there is, although nothing has come for them.
#[tokio::test(start_paused = true)]
async fn an_instance_that_has_nothing_to_do_is_dropped_after_ten_seconds() {
    let engine = Engine::new(0).unwrap();
    let wasm = Bytes::from(scripts::transform(scripts::PASS));
    // A paused clock would run on while it is compiled.
    let _loaded = Script::load(&engine, Recipe::new("pass", wasm.clone())).await.unwrap();
    let (idle, late) = (crowd(&engine, &wasm, PLACES), crowd(&engine, &wasm, 1));
    until(|| idle.status.script().is_some() && late.status.script().is_some()).await;
    idle.append_of(500, 0, numbered(500)).await;
    idle.until(|b| b.delivered == 500).await;
    let since = Instant::now();

    late.append(["x".to_owned()]).await;
    sleep(Duration::from_secs(9)).await;
    assert_eq!(late.counters().queued, 1);
    assert_eq!(late.status.codes(), [("script-fault", true)], "there is no place");
    // Between two of its attempts there are up to 30 s.
    late.until(|b| b.delivered == 1).await;
    assert!(since.elapsed() < Duration::from_secs(45), "{:?}", since.elapsed());
    // And they are made anew when they are needed.
    sleep(Duration::from_secs(11)).await;
    idle.append_of(500, 0, numbered(500)).await;
    idle.until(|b| b.delivered == 1_000).await;
    idle.finish().await;
    late.finish().await;
}
