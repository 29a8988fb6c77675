//! The queue from the sockets to the one task that owns all state. Changes go before queries, so a client
//! that may only read cannot delay one that may change.

use tokio::sync::{mpsc, oneshot};

use super::message::{Command, Refusal, Reply};
use super::quota::Share;

/// Calls of each kind that may wait.
const ROOM: usize = 64;

/// A command, and the channel for its answer.
#[derive(Debug)]
pub struct Call {
    /// The command to carry out.
    pub command: Command,
    /// Channel for the answer.
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
    /// The caller's share of a limit, held until the call is carried out.
    pub share: Option<Share>,
}

/// The sending end of the queue. Clones lead to the same task.
#[derive(Clone, Debug)]
pub struct Calls {
    changes: mpsc::Sender<Call>,
    questions: mpsc::Sender<Call>,
}

/// The end of the task that answers.
#[derive(Debug)]
pub struct Inbox {
    changes: mpsc::Receiver<Call>,
    questions: mpsc::Receiver<Call>,
}

/// Creates both ends of the queue.
pub fn queue() -> (Calls, Inbox) {
    let (changes, next_changes) = mpsc::channel(ROOM);
    let (questions, next_questions) = mpsc::channel(ROOM);
    let calls = Calls { changes, questions };
    let inbox = Inbox {
        changes: next_changes,
        questions: next_questions,
    };
    (calls, inbox)
}

impl Calls {
    /// The answer to `command`; `None` when the agent is stopping. The `share` is given back when the
    /// command is carried out, even if the caller has gone.
    pub async fn ask(
        &self,
        command: Command,
        share: Option<Share>,
    ) -> Option<Result<Reply, Refusal>> {
        let queue = match command.changes() {
            true => &self.changes,
            false => &self.questions,
        };
        let (reply, replied) = oneshot::channel();
        let call = Call {
            command,
            reply,
            share,
        };
        queue.send(call).await.ok()?;
        replied.await.ok()
    }
}

impl Inbox {
    /// The next call; `None` when every sender has gone.
    pub async fn next(&mut self) -> Option<Call> {
        tokio::select! {
            biased;
            Some(change) = self.changes.recv() => Some(change),
            question = self.questions.recv() => question,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn change_goes_before_all_questions_that_wait() {
        let (calls, mut inbox) = queue();
        for _ in 0..ROOM {
            let calls = calls.clone();
            tokio::spawn(async move { calls.ask(Command::Status, None).await });
        }
        tokio::task::yield_now().await;
        let reload = Command::Reload {
            max_moved: None,
            forget_runtime: false,
        };
        let asked = tokio::spawn(async move { calls.ask(reload, None).await });
        tokio::task::yield_now().await;
        let first = inbox.next().await.unwrap();
        assert_eq!(
            first.command,
            Command::Reload {
                max_moved: None,
                forget_runtime: false
            }
        );
        assert_eq!(inbox.next().await.unwrap().command, Command::Status);
        drop(first);
        assert_eq!(asked.await.unwrap(), None);
    }
}
