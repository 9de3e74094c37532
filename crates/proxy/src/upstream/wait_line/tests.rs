use super::*;
use proptest::prelude::*;

/// Calls in line, each with a name.
#[derive(Default)]
struct Line {
    line: WaitLine<()>,
    receivers: Vec<(&'static str, LinePosition, Receiver<()>)>,
}

impl Line {
    fn join(&mut self, name: &'static str, kind: Kind, party: usize) {
        let (position, receiver) = self.line.join(LineClaim::of_party(party, kind));
        self.receivers.push((name, position, receiver));
    }

    /// Serves the next call and returns its name.
    fn serve(&mut self, reads: bool) -> Option<&'static str> {
        let (sender, is_read) = self.line.next(reads)?;
        sender.send(()).unwrap();
        let mut all = self.receivers.iter_mut();
        let at = all.position(|(_, _, receiver)| receiver.try_recv().is_ok());
        let (name, position, _) = self.receivers.remove(at.unwrap());
        assert_eq!(is_read, position.class == LinePrecedence::Read as usize);
        Some(name)
    }

    fn serve_all(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.serve(true)).collect()
    }
}

#[test]
fn money_is_served_before_writes_and_writes_before_reads() {
    let mut line = Line::default();
    for _ in 0..2 {
        line.join("read", Kind::Read, 1);
        line.join("write", Kind::Write, 1);
        line.join("money", Kind::Money, 1);
    }
    let served = line.serve_all();
    assert_eq!(served, ["money", "money", "write", "write", "read", "read"]);
}

#[test]
fn a_class_that_was_passed_over_seven_times_is_next() {
    let mut line = Line::default();
    line.join("read", Kind::Read, 1);
    line.join("write", Kind::Write, 1);
    for _ in 0..30 {
        line.join("money", Kind::Money, 1);
    }
    let served = line.serve_all();
    let place = |name| served.iter().position(|served| *served == name);
    assert_eq!(served.len(), 32);
    // Both are overdue after seven; the read goes first, since it would wait longest.
    assert_eq!((place("read"), place("write")), (Some(7), Some(8)));
}

#[test]
fn a_read_is_passed_over_while_reads_may_not_go_and_loses_no_turn_by_it() {
    let mut line = Line::default();
    line.join("read", Kind::Read, 1);
    assert_eq!(line.serve(false), None);
    for _ in 0..20 {
        line.join("money", Kind::Money, 1);
        assert_eq!(line.serve(false), Some("money"));
    }
    line.join("money", Kind::Money, 1);
    assert_eq!(line.serve(true), Some("money"), "nothing was saved up");
    assert_eq!(line.serve(true), Some("read"));
}

#[test]
fn the_first_call_of_a_party_is_behind_one_of_another_partys_however_many_that_has() {
    let mut line = Line::default();
    for _ in 0..100 {
        line.join("many", Kind::Read, 1);
    }
    for _ in 0..3 {
        line.join("few", Kind::Read, 2);
    }
    let served: Vec<_> = (0..6).filter_map(|_| line.serve(true)).collect();
    assert_eq!(served, ["many", "few", "many", "few", "many", "few"]);
    // The same holds for a call that joins later.
    line.join("few", Kind::Read, 2);
    assert_eq!(
        (line.serve(true), line.serve(true)),
        (Some("many"), Some("few"))
    );
}

#[test]
fn a_call_that_left_the_queue_is_not_served_and_is_forgotten() {
    let mut line = Line::default();
    for _ in 0..5 {
        line.join("gone", Kind::Read, 1);
    }
    line.join("stays", Kind::Read, 2);
    for (name, position, _) in &line.receivers {
        if *name == "gone" {
            line.line.leave(*position);
            // Leaving twice is harmless: the call may have been served meanwhile.
            line.line.leave(*position);
        }
    }
    assert_eq!(line.serve_all(), ["stays"]);
    let classes = &line.line.classes;
    assert!(classes.iter().all(|class| class.parties.is_empty()));
}

proptest! {
    /// Each call that stays is served once, and calls of one party and kind in their order.
    #[test]
    fn each_call_is_served_once(steps in proptest::collection::vec((0_usize..3, 0_usize..4, 0_u8..4), 0..200)) {
        let kinds = [Kind::Money, Kind::Write, Kind::Read];
        let mut line = WaitLine::<()>::default();
        let mut waiting: Vec<(usize, LinePosition, Receiver<()>)> = Vec::new();
        for (kind, party, step) in steps {
            match step {
                0 => {
                    let next = line.next(true);
                    prop_assert_eq!(next.is_some(), !waiting.is_empty());
                    if let Some((sender, _)) = next {
                        sender.send(()).unwrap();
                        let served: Vec<_> = waiting
                            .iter_mut()
                            .enumerate()
                            .filter_map(|(at, (_, _, receiver)): (_, &mut (_, _, Receiver<()>))| {
                                receiver.try_recv().ok().map(|()| at)
                            })
                            .collect();
                        prop_assert_eq!(served.len(), 1);
                        let (of, position, _) = waiting.remove(served[0]);
                        let earlier = waiting.iter().find(|(other, at, _)| {
                            *other == of && at.class == position.class && at.arrival < position.arrival
                        });
                        prop_assert!(earlier.is_none());
                    }
                }
                1 if !waiting.is_empty() => {
                    let (_, position, _) = waiting.remove(party % waiting.len());
                    line.leave(position);
                }
                _ => {
                    let (position, receiver) = line.join(LineClaim::of_party(party, kinds[kind]));
                    waiting.push((party, position, receiver));
                }
            }
        }
    }
}
