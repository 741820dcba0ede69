//! What a round opens: the plans for its predictions, one for each address family.

use super::{Round, bases};
use crate::endpoint::reasons;
use crate::{
    nat::{Model, Prediction},
    punch::{Plan, Terms, Verdict, plan},
};

impl Round {
    /// The plan for both sides' predictions, all address families together, or why there is none, in
    /// words.
    pub(in crate::endpoint) fn plan(&self, terms: &Terms) -> Result<Plan, String> {
        let (Some(mine), Some(theirs)) = (self.mine(), self.theirs()) else {
            return Err("a prediction is missing".into());
        };
        let (mine, theirs) = (bases::moved(mine, &self.my_next), bases::moved(theirs, &self.their_next));
        if mine.is_empty() {
            return Err("no probe of ours was answered: the server's TCP ports cannot be reached".into());
        }
        if theirs.is_empty() {
            return Err("no probe of the other side was answered".into());
        }
        let pairs = mine.iter().flat_map(|m| {
            theirs.iter().filter(move |t| t.address.is_ipv4() == m.address.is_ipv4()).map(move |t| (m, t))
        });
        let mut whole: Option<Plan> = None;
        let mut hopeless = "the two sides have no address family in common";
        for (mine, theirs) in pairs {
            let plan = self.plan_pair(mine, theirs, terms);
            match (plan.verdict, &mut whole) {
                (Verdict::Hopeless(why), _) => hopeless = why,
                (Verdict::Try, Some(whole)) => {
                    whole.redials = whole.redials.min(plan.redials);
                    whole.openings.extend(plan.openings);
                    whole.listen.extend(plan.listen);
                }
                (Verdict::Try, None) => whole = Some(plan),
            }
        }
        whole.ok_or_else(|| reasons::hopeless(&mine, &theirs, hopeless))
    }

    /// A repetition has the plan of a first round, from ports that are turned by as much on both sides.
    fn plan_pair(&self, mine: &Prediction, theirs: &Prediction, terms: &Terms) -> Plan {
        let Some(by) = self.turned else { return plan(mine, theirs, terms) };
        let (mine, ports) = turn(mine, by);
        let mut plan = plan(&mine, &turn(theirs, by).0, &Terms { round: 0, ..*terms });
        let back = |local: u16| ((usize::from(local) + by) % ports.max(1)) as u16;
        plan.openings.iter_mut().for_each(|opening| opening.local = back(opening.local));
        plan.listen.iter_mut().for_each(|local| *local = back(*local));
        plan
    }
}

/// The prediction with its list of ports turned, and the length of the list. The counter beside it has moved
/// on since: a repetition has nothing but the ports that are known.
fn turn(prediction: &Prediction, by: usize) -> (Prediction, usize) {
    let mut turned = Prediction { fresh: None, ..prediction.clone() };
    let Model::Fixed { ports } = &mut turned.model else { return (turned, 0) };
    let count = ports.len();
    ports.rotate_left(by % count.max(1));
    (turned, count)
}
