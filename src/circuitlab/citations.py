"""What to cite: BibTeX entries by key, and the keys a task or a method names."""

from __future__ import annotations

from circuitlab.core.errors import UnknownNameError

__all__ = ["CITATIONS", "STATISTICS", "bibtex", "cite", "keys_for"]

CITATIONS: dict[str, tuple[str, str, str, str]] = {
    "anderson2001": (
        "A new method for non-parametric multivariate analysis of variance",
        "Anderson, Marti J.",
        "2001",
        "Austral Ecology 26, 32-46",
    ),
    "benjamini1995": (
        "Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple Testing",
        "Benjamini, Yoav and Hochberg, Yosef",
        "1995",
        "Journal of the Royal Statistical Society B 57, 289-300",
    ),
    "bogdan2025": (
        "Thought Anchors: Which LLM Reasoning Steps Matter?",
        "Bogdan, Paul C. and Macar, Uzay and Nanda, Neel and Conmy, Arthur",
        "2025",
        "arXiv:2506.19143",
    ),
    "chatterjee2024": (
        "Language Models can Exploit Cross-Task In-context Learning for Data-Scarce Novel Tasks",
        "Chatterjee, Anwoy and Tanwar, Eshaan and Dutta, Subhabrata and Chakraborty, Tanmoy",
        "2024",
        "ACL, arXiv:2405.10548",
    ),
    "clark2019": (
        "What Does BERT Look At? An Analysis of BERT's Attention",
        "Clark, Kevin and Khandelwal, Urvashi and Levy, Omer and Manning, Christopher D.",
        "2019",
        "BlackboxNLP, arXiv:1906.04341",
    ),
    "conmy2023": (
        "Towards Automated Circuit Discovery for Mechanistic Interpretability",
        "Conmy, Arthur and Mavor-Parker, Augustine N. and Lynch, Aengus and Heimersheim, Stefan and Garriga-Alonso, Adria",
        "2023",
        "NeurIPS, arXiv:2304.14997",
    ),
    "cook1994": (
        "Simulation-extrapolation estimation in parametric measurement error models",
        "Cook, J. R. and Stefanski, L. A.",
        "1994",
        "Journal of the American Statistical Association 89, 1314-1328",
    ),
    "elhage2021": (
        "A Mathematical Framework for Transformer Circuits",
        "Elhage, Nelson and Nanda, Neel and Olsson, Catherine and others",
        "2021",
        "Transformer Circuits Thread",
    ),
    "elhelo2024": (
        "Inferring Functionality of Attention Heads from their Parameters",
        "Elhelo, Amit and Geva, Mor",
        "2024",
        "ACL 2025, arXiv:2412.11965",
    ),
    "goldowsky2023": (
        "Localizing Model Behavior with Path Patching",
        "Goldowsky-Dill, Nicholas and MacLeod, Chris and Sato, Lucas and Arora, Aryaman",
        "2023",
        "arXiv:2304.05969",
    ),
    "gould2024": (
        "Successor Heads: Recurring, Interpretable Attention Heads In The Wild",
        "Gould, Rhys and Ong, Euan and Ogden, George and Conmy, Arthur",
        "2024",
        "ICLR, arXiv:2312.09230",
    ),
    "gu2025": (
        "When Attention Sink Emerges in Language Models: An Empirical View",
        "Gu, Xiangming and Pang, Tianyu and Du, Chao and Liu, Qian and others",
        "2025",
        "ICLR, arXiv:2410.10781",
    ),
    "han2025zero": (
        "ZeroTuning: Unlocking the Initial Token's Power to Enhance Large Language Models Without Training",
        "Han, Feijiang and Yu, Xiaodong and Tang, Jianheng and Ungar, Lyle",
        "2025",
        "arXiv:2505.11739",
    ),
    "hanna2023": (
        "How does GPT-2 compute greater-than?: Interpreting mathematical abilities in a pre-trained language model",
        "Hanna, Michael and Liu, Ollie and Variengien, Alexandre",
        "2023",
        "NeurIPS, arXiv:2305.00586",
    ),
    "hanna2024": (
        "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms",
        "Hanna, Michael and Pezzelle, Sandro and Belinkov, Yonatan",
        "2024",
        "COLM, arXiv:2403.17806",
    ),
    "he2025taskkv": (
        "Task-KV: Task-aware KV Cache Optimization via Semantic Differentiation of Attention Heads",
        "He, Xingyang and others",
        "2025",
        "arXiv:2501.15113",
    ),
    "he2025icl": (
        "In-Context Linear Regression Demystified: Training Dynamics and Mechanistic Interpretability of Multi-Head Softmax Attention",
        "He, Jianliang and Pan, Xintian and Chen, Siyu and Yang, Zhuoran",
        "2025",
        "ICML, arXiv:2503.12734",
    ),
    "heimersheim2023": (
        "A circuit for Python docstrings in a 4-layer attention-only transformer",
        "Heimersheim, Stefan and Janiak, Jett",
        "2023",
        "AI Alignment Forum",
    ),
    "heimersheim2024": (
        "How to use and interpret activation patching",
        "Heimersheim, Stefan and Nanda, Neel",
        "2024",
        "arXiv:2404.15255",
    ),
    "hsu2024": (
        "Efficient Automated Circuit Discovery in Transformers using Contextual Decomposition",
        "Hsu, Aliyah R. and others",
        "2024",
        "ICLR 2025, arXiv:2407.00886",
    ),
    "hua2025": (
        "AttentionInfluence: Adopting Attention Head Influence for Weak-to-Strong Pretraining Data Selection",
        "Hua, Kai and Wu, Steven and Zhang, Ge and Shen, Ke",
        "2025",
        "arXiv:2505.07293",
    ),
    "jafari2025": (
        "RelP: Faithful and Efficient Circuit Discovery in Language Models via Relevance Patching",
        "Jafari, Farnoush Rezaei and Eberle, Oliver and Khakzar, Ashkan and Nanda, Neel",
        "2025",
        "arXiv:2508.21258",
    ),
    "jin2024": (
        "MoH: Multi-Head Attention as Mixture-of-Head Attention",
        "Jin, Peng and Zhu, Bo and Yuan, Li and Yan, Shuicheng",
        "2024",
        "ICML 2025, arXiv:2410.11842",
    ),
    "kamath2025": (
        "Tracing Attention Computation Through Feature Interactions",
        "Kamath, Harish and Ameisen, Emmanuel and Kauvar, Isaac and Luger, Rodrigo and Gurnee, Wes and others",
        "2025",
        "Transformer Circuits Thread",
    ),
    "kramar2024": (
        "AtP*: An efficient and scalable method for localizing LLM behaviour to components",
        "Kramar, Janos and Lieberum, Tom and Shah, Rohin and Nanda, Neel",
        "2024",
        "arXiv:2403.00745",
    ),
    "lex2014": (
        "UpSet: Visualization of Intersecting Sets",
        "Lex, Alexander and Gehlenborg, Nils and Strobelt, Hendrik and Vuillemot, Romain and Pfister, Hanspeter",
        "2014",
        "IEEE Transactions on Visualization and Computer Graphics 20, 1983-1992",
    ),
    "li2025waad": (
        "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy Optimization",
        "Li, Yang and Dong, Zhichen and Sun, Yuhan and Wang, Weixun and others",
        "2025",
        "arXiv:2510.13554",
    ),
    "lieberum2023": (
        "Does Circuit Analysis Interpretability Scale? Evidence from Multiple Choice Capabilities in Chinchilla",
        "Lieberum, Tom and others",
        "2023",
        "arXiv:2307.09458",
    ),
    "lin2025compress": (
        "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation",
        "Lin, Xiaolin and Wang, Jingcun and Kondrateva, Olga and Shi, Yiyu and Li, Bing and Zhang, Grace Li",
        "2025",
        "arXiv:2508.02401",
    ),
    "liu2008": (
        "Statistical Significance of Clustering for High-Dimension, Low-Sample Size Data",
        "Liu, Yufeng and Hayes, David Neil and Nobel, Andrew and Marron, J. S.",
        "2008",
        "Journal of the American Statistical Association 103, 1281-1293",
    ),
    "lu2024longheads": (
        "LongHeads: Multi-Head Attention is Secretly a Long Context Processor",
        "Lu, Yi and Zhou, Xin and He, Wei and others",
        "2024",
        "EMNLP Findings, arXiv:2402.10685",
    ),
    "lv2024": (
        "Interpreting Key Mechanisms of Factual Recall in Transformer-Based Language Models",
        "Lv, Ang and others",
        "2024",
        "arXiv:2403.19521",
    ),
    "ma2025": (
        "Task-Specific Data Selection for Instruction Tuning via Monosemantic Neuronal Activations",
        "Ma, Da and Shang, Gonghu and Chen, Zhi and Qin, Libo and Luo, Yijie and Pan, Lei and Fan, Shuai and Chen, Lu and Yu, Kai",
        "2025",
        "NeurIPS, arXiv:2503.15573",
    ),
    "merullo2024": (
        "Circuit Component Reuse Across Tasks in Transformer Language Models",
        "Merullo, Jack and Eickhoff, Carsten and Pavlick, Ellie",
        "2024",
        "ICLR, arXiv:2310.08744",
    ),
    "mueller2025": (
        "MIB: A Mechanistic Interpretability Benchmark",
        "Mueller, Aaron and Geiger, Atticus and Wiegreffe, Sarah and others",
        "2025",
        "ICML, arXiv:2504.13151",
    ),
    "nanda2023": (
        "Attribution Patching: Activation Patching At Industrial Scale",
        "Nanda, Neel",
        "2023",
        "neelnanda.io",
    ),
    "nostalgebraist2020": (
        "interpreting GPT: the logit lens",
        "nostalgebraist",
        "2020",
        "LessWrong",
    ),
    "olsson2022": (
        "In-context Learning and Induction Heads",
        "Olsson, Catherine and Elhage, Nelson and Nanda, Neel and others",
        "2022",
        "Transformer Circuits Thread, arXiv:2209.11895",
    ),
    "oneill2024": (
        "Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language Models",
        "O'Neill, Charles and Bui, Thang",
        "2024",
        "arXiv:2405.12522",
    ),
    "qiao2025": (
        "Understanding Transformers through the Lens of Pavlovian Conditioning",
        "Qiao, Mu",
        "2025",
        "arXiv:2508.08289",
    ),
    "park2025soft": (
        "Soft Injection of Task Embeddings Outperforms Prompt-Based In-Context Learning",
        "Park, Jungwon and Rhee, Wonjong",
        "2025",
        "arXiv:2507.20906",
    ),
    "roy2007": (
        "The effective rank: A measure of effective dimensionality",
        "Roy, Olivier and Vetterli, Martin",
        "2007",
        "European Signal Processing Conference (EUSIPCO)",
    ),
    "syed2023": (
        "Attribution Patching Outperforms Automated Circuit Discovery",
        "Syed, Aaquib and Rager, Can and Conmy, Arthur",
        "2023",
        "arXiv:2310.10348",
    ),
    "tang2024": (
        "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads",
        "Tang, Hanlin and Lin, Yang and Lin, Jing and others",
        "2024",
        "arXiv:2407.15891",
    ),
    "todd2024": (
        "Function Vectors in Large Language Models",
        "Todd, Eric and Li, Millicent L. and Sharma, Arnab Sen and Mueller, Aaron and Wallace, Byron C. and Bau, David",
        "2024",
        "ICLR, arXiv:2310.15213",
    ),
    "vig2019": (
        "Analyzing the Structure of Attention in a Transformer Language Model",
        "Vig, Jesse and Belinkov, Yonatan",
        "2019",
        "BlackboxNLP, arXiv:1906.04284",
    ),
    "wang2022": (
        "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small",
        "Wang, Kevin and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and Steinhardt, Jacob",
        "2022",
        "arXiv:2211.00593",
    ),
    "webber2010": (
        "A similarity measure for indefinite rankings",
        "Webber, William and Moffat, Alistair and Zobel, Justin",
        "2010",
        "ACM Transactions on Information Systems 28, 20",
    ),
    "wu2024retrieval": (
        "Retrieval Head Mechanistically Explains Long-Context Factuality",
        "Wu, Wenhao and Wang, Yizhong and Xiao, Guangxuan and Peng, Hao and Fu, Yao",
        "2024",
        "arXiv:2404.15574",
    ),
    "xiao2024duo": (
        "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads",
        "Xiao, Guangxuan and Tang, Jiaming and Zuo, Jingwei and Guo, Junxian and Yang, Shang and Tang, Haotian and Fu, Yao and Han, Song",
        "2024",
        "arXiv:2410.10819",
    ),
    "yu2024act": (
        "Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training through Attention Calibration",
        "Yu, Zhongzhi and Wang, Zheng and Fu, Yonggan and others",
        "2024",
        "ICML, arXiv:2406.15765",
    ),
    "yin2024lofit": (
        "LoFiT: Localized Fine-tuning on LLM Representations",
        "Yin, Fangcong and Ye, Xi and Durrett, Greg",
        "2024",
        "NeurIPS, arXiv:2406.01563",
    ),
    "yu2023": (
        "Characterizing Mechanisms for Factual Recall in Language Models",
        "Yu, Qinan and Merullo, Jack and Pavlick, Ellie",
        "2023",
        "EMNLP, arXiv:2310.15910",
    ),
    "zhang2024": (
        "Towards Best Practices of Activation Patching in Language Models: Metrics and Methods",
        "Zhang, Fred and Nanda, Neel",
        "2024",
        "ICLR, arXiv:2309.16042",
    ),
    "zhang2024arithmetic": (
        "Interpreting and Improving Large Language Models in Arithmetic Calculation",
        "Zhang, Wei and others",
        "2024",
        "ICML, arXiv:2409.01659",
    ),
    "zhang2025query": (
        "Query-Focused Retrieval Heads Improve Long-Context Reasoning and Re-ranking",
        "Zhang, Wuwei and Yin, Fangcong and Yen, Howard and Chen, Danqi and Ye, Xi",
        "2025",
        "EMNLP, arXiv:2506.09944",
    ),
}
"""Title, authors, year and venue by key."""

STATISTICS: dict[str, tuple[str, ...]] = {
    "compare": ("benjamini1995", "cook1994", "lex2014", "webber2010"),
    "logit_lens": ("nostalgebraist2020", "elhage2021"),
    "stability": ("anderson2001", "liu2008"),
    "why_attends": ("elhage2021", "kamath2025"),
}
"""What functions that are no methods stand on: comparisons of circuits, the check of a task's prompts for several mechanisms, the
logit lens, and the split of attention scores into writers."""


def bibtex(key: str) -> str:
    """The BibTeX entry of a key; an unknown key raises `UnknownNameError`."""
    if key not in CITATIONS:
        raise UnknownNameError("citation", key, CITATIONS)
    title, authors, year, venue = CITATIONS[key]
    return f"@misc{{{key},\n  title = {{{title}}},\n  author = {{{authors}}},\n  year = {{{year}}},\n  note = {{{venue}}}\n}}"


def keys_for(name: str) -> list[str]:
    """Citation keys of a task, a method, a role, a function such as ``compare``, ``stability`` or ``logit_lens``, or a key itself."""
    from circuitlab.methods import method_classes  # noqa: PLC0415 - only this command needs it
    from circuitlab.methods.roles import role_classes  # noqa: PLC0415
    from circuitlab.tasks import list_tasks, load_task  # noqa: PLC0415

    if name in CITATIONS:
        return [name]
    if name in STATISTICS:
        return list(STATISTICS[name])
    if name in list_tasks():
        return load_task(name).cite
    for classes in (method_classes(), role_classes()):
        if name in classes:
            return list(classes[name].cite)
    known = [*CITATIONS, *STATISTICS, *list_tasks(), *method_classes(), *role_classes()]
    raise UnknownNameError("task, method, role or citation", name, known)


def cite(name: str) -> str:
    """BibTeX of everything to cite for a task, a method, a role or a citation key.

    Raises
    ------
    UnknownNameError
        If nothing has that name; the nearest known name is suggested.

    Examples
    --------
    >>> cite("activation_patching").splitlines()[0]
    '@misc{heimersheim2024,'
    """
    return "\n\n".join(map(bibtex, keys_for(name)))
