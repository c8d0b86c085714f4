//! The files of a destination change while it is in use.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// Lets in whoever has a good password in its file, each lane of the stream
/// and the one after the last, which proves it.
struct Door {
    far: Arc<FarSide>,
    file: PathBuf,
    password: String,
    /// Lane and password of each connection that was asked for.
    asked: Arc<Mutex<Vec<(u32, String)>>>,
}

impl Door {
    fn new(far: &Arc<FarSide>, folder: &TempDir, password: &str) -> Self {
        let file = folder.path().join("password");
        std::fs::write(&file, password).unwrap();
        Self { far: far.clone(), file, password: password.to_owned(), asked: Arc::default() }
    }
}

#[async_trait]
impl Destination for Door {
    fn window(&self) -> usize {
        self.far.window
    }

    fn check(&self, _delivery: &Delivery) -> Result<(), String> {
        Ok(())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        let password = std::fs::read_to_string(&self.file)
            .map_err(|error| Fault::persistent(Cause::Configuration, error.to_string()))?;
        let (far, file, asked) = (self.far.clone(), self.file.clone(), self.asked.clone());
        Ok(Some(Arc::new(Self { far, file, password, asked })))
    }

    async fn connect(&self, lane: u32) -> Result<Box<dyn Connection>, Fault> {
        self.asked.lock().unwrap().push((lane, self.password.clone()));
        if self.password == "bad" {
            return Err(Fault::persistent(Cause::Credentials, "wrong password"));
        }
        FarSideDestination(self.far.clone()).connect(lane).await
    }
}

struct Site {
    running: Running,
    folder: TempDir,
    asked: Arc<Mutex<Vec<(u32, String)>>>,
}

impl Site {
    async fn start(window: usize, lanes: u32) -> Self {
        Self::start_with("first", window, lanes).await
    }

    async fn start_with(password: &str, window: usize, lanes: u32) -> Self {
        let (far, folder) = (FarSide::new(Mood::Accepts, window), tempfile::tempdir().unwrap());
        let door = Door::new(&far, &folder, password);
        let asked = door.asked.clone();
        let journal = Journal::simulated(Simulated::new(1));
        let (pressure, limits) = (Pressure::default(), Limits::default());
        let running = start_to(Arc::new(door), journal, pressure, TRAPS_ON_MARK, far, lanes, limits).await;
        let site = Self { running, folder, asked };
        site.until(|asked| asked.len() >= lanes as usize).await;
        site
    }

    /// As a careful program does it.
    fn write(&self, password: &str) {
        let (file, new) = (self.folder.path().join("password"), self.folder.path().join("new"));
        std::fs::write(&new, password).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn until(&self, wanted: impl Fn(&[(u32, String)]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while !wanted(&self.asked.lock().unwrap()) {
            assert!(Instant::now() < deadline, "{:?}", self.asked.lock().unwrap());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Who asked with that password.
    fn lanes_with(&self, password: &str) -> Vec<u32> {
        let asked = self.asked.lock().unwrap();
        let mut lanes: Vec<u32> =
            asked.iter().filter(|(_, with)| with == password).map(|(lane, _)| *lane).collect();
        lanes.sort_unstable();
        lanes
    }
}

#[tokio::test(start_paused = true)]
async fn every_lane_connects_anew_once_the_new_file_is_proven_and_nothing_is_sent_twice() {
    let site = Site::start(16, 2).await;
    let mut count = 0;
    for password in ["second", "third"] {
        site.write(password);
        while site.lanes_with(password).len() < 3 {
            site.running.append([format!("{count:05}")]).await;
            count += 1;
            sleep(Duration::from_millis(100)).await;
            assert!(count < 5_000);
        }
        assert_eq!(site.lanes_with(password), [0, 1, 2], "two lanes, and the one that proves it");
    }
    site.running.until(|b| b.delivered == count).await;
    assert_eq!(site.running.status.state(), State::Running);
    assert_eq!(site.running.status.retries(), 0);
    assert_eq!(site.running.status.last_error(), None);
    let sent = site.running.far.sent.lock().unwrap().len();
    assert_eq!(u64::try_from(sent).unwrap(), count);
    site.running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_keeps_the_old_connection_and_what_it_reconnects_with() {
    let site = Site::start(16, 1).await;
    site.write("bad");
    site.until(|asked| asked.contains(&(1, "bad".to_owned()))).await;
    site.running.append(numbered(50)).await;
    site.running.until(|b| b.delivered == 50).await;
    assert_eq!(site.running.status.state(), State::Running);
    let told = site.running.status.last_error().unwrap();
    assert_eq!(told, "credentials not reloaded: wrong password");

    site.running.far.set(Mood::Unreachable);
    sleep(Duration::from_secs(5)).await;
    site.running.far.set(Mood::Accepts);
    site.running.append(numbered(1)).await;
    site.running.until(|b| b.delivered == 51).await;
    assert_eq!(site.lanes_with("bad"), [1], "tried by nobody but the proof");

    // It is tried again by itself: the far side may learn of it later.
    site.until(|asked| asked.iter().filter(|(_, with)| with == "bad").count() >= 3).await;
    site.write("good");
    site.until(|asked| asked.contains(&(0, "good".to_owned()))).await;
    assert_eq!(site.lanes_with("good"), [0, 1]);
    site.running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_gets_no_answer_is_waited_for_a_while_and_sent_again_on_the_new_connection() {
    let site = Site::start(16, 1).await;
    site.running.far.set(Mood::Silent);
    site.running.append(numbered(100)).await;
    site.running.until(|b| b.queued == 100).await;
    site.write("second");
    site.until(|asked| asked.contains(&(1, "second".to_owned()))).await;
    let proven = Instant::now();
    site.until(|asked| asked.contains(&(0, "second".to_owned()))).await;
    assert!(proven.elapsed() >= Duration::from_secs(4) && proven.elapsed() <= Duration::from_secs(6));
    site.running.far.set(Mood::Accepts);
    site.running.until(|b| b.delivered == 100).await;
    assert_eq!(site.running.status.retries(), 16);
    assert_eq!(site.running.finish().await, numbered(100));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_connect_tries_what_is_new_at_once() {
    let site = Site::start_with("bad", 16, 1).await;
    site.running.append(numbered(10)).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(site.running.status.state().word(), "blocked");
    site.write("good");
    site.until(|asked| asked.contains(&(1, "good".to_owned()))).await;
    let proven = Instant::now();
    site.running.until(|b| b.delivered == 10).await;
    assert!(proven.elapsed() < Duration::from_secs(1), "the next attempt was due in 15 to 30 s");
    assert_eq!(site.running.finish().await, numbered(10));
}
