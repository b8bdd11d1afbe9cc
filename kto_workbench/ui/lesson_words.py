"""What Learn says, English and Simplified Chinese side by side; merged into words.py."""

LESSON_WORDS: dict[str, tuple[str, str]] = {
    "lesson.intro": (
        "<h2>KTO in six steps, four minutes</h2><p>No mathematics is needed: move each slider and watch its picture. "
        "Symbols explain themselves when you point at them or reach them with the Tab key.</p>",
        "<h2>六步学会 KTO，四分钟</h2><p>不需要数学：拖动滑块，观察图的变化。指向符号或用 Tab 键选中，"
        "即可看到解释。</p>",
    ),
    "lesson.word.title": ("1 · How likely is an answer?", "1 · 一个回答有多可能？"),
    "lesson.word.text": (
        "A language model writes word by word and gives each next word a probability; an answer's probability is "
        "all of "
        "these multiplied, which soon is tiny, so it is counted in logarithms: one nat more is 2.7 times as likely.",
        "语言模型逐词书写，给每个下一个词一个概率；回答的概率是它们的乘积，很快就变得极小，"
        "所以用对数来计：多 1 nat 就是 2.7 倍的可能。",
    ),
    "lesson.word.slider": ("Probability of each word", "每个词的概率"),
    "lesson.word.chart": ("Log-probability of an answer, in nats, word by word", "回答的对数概率（nat），逐词累加"),
    "lesson.word.told": (
        "{count} words at {p:g} each: a probability of {whole}, which is {nats} nats.",
        "{count} 个词，每个 {p:g}：概率为 {whole}，即 {nats} nat。",
    ),
    "lesson.loss.title": ("2 · What does a loss do?", "2 · 损失有什么用？"),
    "lesson.loss.text": (
        "A loss is a number that says how far the model is from what the thumbs ask for; each step of training "
        "changes "
        "the model a little in the direction in which that number falls, as a ball rolls downhill.",
        "损失是一个数，说明模型离反馈的要求还有多远；训练的每一步都让模型朝这个数变小的方向改变一点，就像球滚下坡。",
    ),
    "lesson.loss.slider": ("Steps of training", "训练步数"),
    "lesson.loss.chart": ("Loss of an answer with a thumb up", "一个被点赞回答的损失"),
    "lesson.loss.told": (
        "After {steps} steps the loss is {loss:.2f}, and the answer is {times:.3g} times as likely as before.",
        "{steps} 步之后损失为 {loss:.2f}，该回答的可能性是原来的 {times:.3g} 倍。",
    ),
    "lesson.r.title": ("3 · r: how much likelier it has become", "3 · r：变得更可能了多少"),
    "lesson.r.text": (
        "r is by how many nats the model finds an answer likelier than its reference, the model before the training, "
        "does: a thumb up pulls r up, and a thumb down pulls r down, so that the answer becomes less likely.",
        "r 表示模型比参考模型（训练前的模型）认为一个回答更可能多少 nat：点赞把 r 往上拉，点踩把 r 往下拉，"
        "使该回答变得更不可能。",
    ),
    "lesson.r.slider": ("r of an answer, in nats", "一个回答的 r（nat）"),
    "lesson.r.chart": ("What an answer is worth to KTO, by its r", "回答对 KTO 的价值（横轴 r）"),
    "lesson.r.told": (
        "r = {r}: {times:.3g} times as likely as before. With a thumb up it is worth {up:.2f} of 1, with a "
        "thumb down "
        "{down:.2f}; each is pulled to where it is worth more.",
        "r = {r}：可能性是原来的 {times:.3g} 倍。点赞时价值 {up:.2f}（满分 1），点踩时 {down:.2f}；"
        "二者都被拉向价值更高的一边。",
    ),
    "lesson.z0.title": ("4 · z0: from where it counts", "4 · z0：从哪里算起"),
    "lesson.z0.text": (
        "z0 is how much likelier answers have become in general, measured on answers that belong to other "
        "prompts; KTO "
        "counts r from there, so that making every answer likelier earns nothing: a liked one must gain more "
        "than others.",
        "z0 表示回答普遍变得更可能了多少，用属于其他提示的回答来测；KTO 从那里开始计算 r，"
        "所以让每个回答都更可能毫无所得：受欢迎的回答必须比别的涨得更多。",
    ),
    "lesson.z0.slider": ("z0, in nats", "z0（nat）"),
    "lesson.z0.chart": ("What an answer is worth, counted from z0", "从 z0 算起的回答价值"),
    "lesson.z0.told": (
        "A liked answer with r = 2 is worth {up:.2f} of 1: it lies {above} z0.",
        "一个 r = 2 的受欢迎回答价值 {up:.2f}（满分 1）：它在 z0 {above}。",
    ),
    "lesson.z0.above": ("above", "之上"),
    "lesson.z0.at": ("at", "处"),
    "lesson.z0.below": ("below", "之下"),
    "lesson.beta.title": ("5 · β: how soon it lets go", "5 · β：多早放手"),
    "lesson.beta.text": (
        "An answer is pulled hardest where r is z0, and less the further it has come: at 3.6/β nats a tenth of "
        "the pull "
        "is left, beyond that less than a tenth; so a large β stops early, near the reference, and a small β "
        "goes on.",
        "r 等于 z0 时拉力最强，走得越远越弱：到 3.6/β nat 处只剩十分之一，再远就不到十分之一；"
        "所以 β 大会早早停下，留在参考模型附近，β 小则继续走远。",
    ),
    "lesson.beta.slider": ("β", "β"),
    "lesson.beta.chart": (
        "Pull on a liked answer, of its strongest, by r − z0",
        "对受欢迎回答的拉力（相对最强，横轴 r − z0）",
    ),
    "lesson.beta.told": (
        "With β = {beta:g}, a tenth of the pull is left once an answer is {far:.2g} nats away: {times} times as "
        "likely.",
        "β = {beta:g} 时，回答离开 {far:.2g} nat（可能性 {times} 倍）后，拉力只剩十分之一。",
    ),
    "lesson.lambda.title": ("6 · λ: how much a thumb weighs", "6 · λ：一个反馈有多重"),
    "lesson.lambda.text": (
        "λ_D is the weight of each thumb up, λ_U that of each thumb down: raise λ_D when thumbs up are rare, "
        "until all "
        "thumbs up together weigh as much as all thumbs down, or up to one and a half times as much.",
        "λ_D 是每个点赞的权重，λ_U 是每个点踩的权重：点赞稀少时提高 λ_D，直到全部点赞的总重与全部点踩相当，"
        "或至多为其一倍半。",
    ),
    "lesson.lambda.slider": ("Thumbs up among 100", "100 个反馈中的点赞数"),
    "lesson.lambda.told": (
        "{up} up and {down} down: λ_D {weight_up:.3g} and λ_U {weight_down:.3g} make them weigh the same.",
        "{up} 个点赞、{down} 个点踩：λ_D {weight_up:.3g}、λ_U {weight_down:.3g} 使两边等重。",
    ),
    # predict, then reveal
    "predict.title": (
        "<h2>Predict, then look</h2><p>Real runs of the demo answer, recorded once. Choose first: that is how it "
        "stays.</p>",
        "<h2>先猜，再看</h2><p>由示例的真实训练记录来回答。先选再看，记得更牢。</p>",
    ),
    "predict.ask": ("What happens?", "会发生什么？"),
    "predict.beta": ("β ten times larger", "β 变为十倍"),
    "predict.rate": ("A learning rate of a tenth", "学习率变为十分之一"),
    "predict.rare": ("Thumbs up are 1 in 10, and both λ stay 1", "点赞只占十分之一，两个 λ 都保持为 1"),
    "predict.question": ("The change", "改变"),
    "predict.guess": ("Liked and disliked answers end up …", "受欢迎与不受欢迎的回答最终……"),
    "predict.further": ("further apart", "离得更远"),
    "predict.same": ("about as far apart", "差不多远"),
    "predict.nearer": ("less far apart", "离得更近"),
    "predict.right": ("You were right.", "猜对了。"),
    "predict.wrong": ("Not so: {answer}.", "并非如此：{answer}。"),
    "predict.chart": ("r of liked and disliked answers, in nats, by step", "受欢迎与不受欢迎回答的 r（nat），按步数"),
    "predict.as_demo": ("{side}, the demo", "{side}，示例"),
    "predict.as_weighted": ("{side}, with λ by the rule", "{side}，λ 按规则"),
    "predict.as_changed": ("{side}, changed", "{side}，改变后"),
    "predict.gap": (
        "In the end they are {changed:.1f} nats apart, against {first:.1f}; liked answers stand at r = {up:.1f}, "
        "against "
        "{first_up:.1f}.",
        "最终相距 {changed:.1f} nat，原来为 {first:.1f}；受欢迎的回答 r = {up:.1f}，原来为 {first_up:.1f}。",
    ),
    "predict.why.beta": (
        "The pull is gone 3.6/β nats from z0, and that is ten times nearer now.",
        "离 z0 3.6/β nat 处拉力就消失了，而现在这个距离只有十分之一。",
    ),
    "predict.why.rate": (
        "Each step changes the model ten times less, and {steps} steps are too few to make up for it.",
        "每一步对模型的改变只有十分之一，{steps} 步不足以弥补。",
    ),
    "predict.why.rare": (
        "Nine thumbs down pull for every thumb up: disliked answers are pushed far away, and liked ones gain less; λ_D "
        "gives them their weight back.",
        "每个点赞对着九个点踩：不受欢迎的回答被推得很远，受欢迎的却涨得更少；λ_D 把它们的分量还给它们。",
    ),
    "lesson.mine": (
        "<h2>Your own run on these curves</h2><p>Dots are answers of the run that the Train tab shows.</p>",
        "<h2>把你自己的训练放到曲线上</h2><p>圆点是“训练”页所示训练的回答。</p>",
    ),
    "lesson.nothing": (
        "There is no run yet, so there is nothing to show on the curves.",
        "还没有训练，所以曲线上没有可显示的内容。",
    ),
    # the glossary
    "gloss.β": (
        "β: how soon KTO lets go of an answer; large stays near the reference, small goes further",
        "β：KTO 多早放手；大则留在参考模型附近，小则走得更远",
    ),
    "gloss.λ_D": ("λ_D: the weight of each thumb up", "λ_D：每个点赞的权重"),
    "gloss.λ_U": ("λ_U: the weight of each thumb down", "λ_U：每个点踩的权重"),
    "gloss.λ": ("λ: how much a thumb weighs", "λ：一个反馈的权重"),
    "gloss.z0": (
        "z0: how much likelier answers have become in general, from where KTO counts, in nats",
        "z0：回答普遍变得更可能了多少，KTO 由此算起（nat）",
    ),
    "gloss.β·z0": ("β·z0: z0 on the scale of the rewards", "β·z0：按奖励的尺度表示的 z0"),
    "gloss.r": (
        "r: by how many nats an answer has become likelier than before the training",
        "r：回答比训练前更可能多少 nat",
    ),
    "gloss.KL": (
        "KL: how far the tuned model is from its reference, on answers of its own, in nats",
        "KL：训练后的模型在自己的回答上离参考模型有多远（nat）",
    ),
    "gloss.nats": ("nat: one nat more is 2.7 times as likely", "nat：多 1 nat 就是 2.7 倍的可能"),
    "gloss.margin": (
        "margin: reward of liked answers less that of disliked ones",
        "差值：点赞回答的奖励减去点踩回答的奖励",
    ),
    "gloss.learn": ("What is this? Learn explains it", "这是什么？到“原理”页看解释"),
}
