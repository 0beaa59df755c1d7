"""All hostile programs: name -> (code, reason, output).

Each is run with the tests `assert f(1) == 2` and `assert f(2) == 3`. reason and output are regular
expressions that the verdict must match, so that a program that fails for another reason, before its
attack, is noticed. The text that is printed when the attack got as far as it could is put together
at run time. {canary} is a file outside of the sandbox, {port} a listening TCP port of the machine,
{token} a word that only the tests contain (split in two), {kill} a signal.
"""

from evals.hostile.calling import CALLING
from evals.hostile.deceiving import DECEIVING
from evals.hostile.exhausting import EXHAUSTING, OUTLIVING
from evals.hostile.hoarding import HOARDING
from evals.hostile.pretending import PRETENDING
from evals.hostile.reaching_out import REACHING_OUT
from evals.hostile.replying import REPLYING

# Siblings of faults that were seen.
NEW = CALLING | DECEIVING | HOARDING | REPLYING
PROGRAMS = EXHAUSTING | OUTLIVING | REACHING_OUT | PRETENDING | NEW
