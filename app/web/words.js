// Every word that a person reads, in each language; what stands in braces is filled in.

export const WORDS = {
  en: {
    skip: "Skip to the content",
    product: "Product",
    inspect: "Inspect",
    versions: "Versions",
    health: "Health",
    key: "API key",
    keyAsk: "The key for this tab, which keeps it until it is closed. Leave it empty where none is asked for.",
    yes: "OK",
    no: "Cancel",
    why: "Why (kept in the audit)",
    trouble: "That did not work: {why}",
    away: "the service does not answer",
    noProducts: "No product has been learned yet: goodpart train, or make demo",
    choose: "Choose an image…",
    drop: "Drop an image of a part here, or choose one",
    stage: "Part with heat-map: + and − zoom, arrows move, 0 shows all",
    judging: "Judging…",
    nothing: "No part yet",
    follow: "Follow the line",
    opacity: "Heat-map",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    fit: "Whole",
    ordinary: "ordinary",
    odd: "far off",
    recent: "Recent inspections",
    ok: "GOOD",
    ng: "DEFECTIVE",
    good: "good",
    defective: "defective",
    notKept: "The image of this part was not kept (GOODPART_KEEP_IMAGES).",
    notShown: "This browser can't show this kind of image; the heat-map is over it.",
    score: "Score",
    scoreOf: "Score {score}, threshold {threshold}",
    scale: "0 is the mean of good parts, 1 their spread",
    oddNone: "None of {of} good parts looks this odd.",
    oddOne: "1 of {of} good parts looks this odd.",
    oddMany: "{many} of {of} good parts look this odd, or odder.",
    scales: "What each scale says",
    stride: "Stride {stride} px",
    regions: "Where it is odd",
    noRegions: "Nowhere more than good parts are.",
    region: "{width} × {height} px at ({x}, {y})",
    expected: "What good parts look like there:",
    part: "Part",
    version: "Version",
    took: "Took",
    image: "Image",
    confirm: "What is it really?",
    isGood: "It is good",
    isDefective: "It is defective",
    thresholdBy: "Choose it",
    byRate: "by the share of good parts that may be thrown away",
    byValue: "by its value",
    rateLabel: "False-alarm rate (0 to 1)",
    valueLabel: "Threshold",
    threshold: "Threshold",
    thresholdNow: "Now {threshold}: {from}.",
    fromCalibration: "the version's own, {rate} of good parts may be thrown away",
    fromRate: "chosen by rate, {rate} of good parts may be thrown away",
    fromValue: "chosen by value; {rate} of the calibration's good parts are above it",
    lastParts: "Over so many of the last parts",
    preview: "Preview",
    apply: "Let it hold…",
    lift: "Back to the version's own…",
    previewed: "Threshold {threshold}: of the last {parts} parts, {then} would be defective; by the one that holds, {now} are.",
    previewedChange: "Good now, defective then: {ng}. Defective now, good then: {ok}. It promises at most {rate} false alarms.",
    previewedNone: "This version has judged no part yet that is still in the history.",
    parts: "Scores of the last parts; the line is the threshold",
    liftAsk: "Let the version's own threshold hold for {product} again?",
    serves: "Serves",
    servesNothing: "No version of {product} serves.",
    serving: "Version {version} serves {product}.",
    candidate: "Candidate, judges {share} beside",
    created: "Made",
    method: "Method",
    teacher: "Teacher",
    promise: "Promise",
    state: "State",
    actions: "What to do",
    activate: "Let it serve…",
    activateAsk: "Let {version} serve {product}?",
    rollback: "Back to the version before…",
    rollbackAsk: "Let the version before serve {product} again?",
    shadow: "Try beside…",
    shadowAsk: "Let {version} judge {share} of the live parts beside? Answers stay those of the version that serves.",
    endShadow: "End the trial…",
    endShadowAsk: "End the candidate's trial?",
    tally: "judged otherwise: {disagreed} of {judged}",
    ready: "Ready",
    notReady: "Not ready",
    elsewhere: "Health is answered on another port (GOODPART_HEALTH_PORT).",
    throughput: "Throughput",
    drift: "Drift",
    perMinute: "Parts a minute",
    since: "Parts since the start",
    share: "Of these defective",
    drifted: "Scores differ from those of the calibration: {distance}, more than {limit}. Has the light or the material changed?",
    steady: "Scores look as at calibration: {distance} of at most {limit}.",
    filling: "{seen} of {window} scores for the next look.",
    themeAuto: "Light: auto",
    themeLight: "Light: light",
    themeDark: "Light: dark",
    keyIsNone: "a key has no such letters",
    counts: "What is judged here counts like any part of the line: in the history, for drift, and in results that are sent out.",
    notJudged: "Not judged",
    oneImage: "one image at a time",
    noHeatmap: "The heat-map could not be made again; the part may be shown once more later.",
    warning: "Warning",
    confirmTakesImage: "This takes the part's image.",
    confirmedOk: "Kept as good; the next training learns from it.",
    confirmedNg: "Kept as defective; the next version must find it.",
    rests: "Version {version} of {product} rests until it is asked for.",
    fails: "Activated, can't serve",
    candidateIs: "Candidate {version}, judges {share} beside; {came}",
    applyValue: "Let the threshold {value} hold for {product}?",
    applyRate: "Let the threshold for a false-alarm rate of {value} hold for {product}?",
    inference: "Inference takes {ms} ms, the mean of all products since the start.",
    noParts: "No part has been judged since the start.",
  },
  zh: {
    skip: "跳到内容",
    product: "产品",
    inspect: "检测",
    versions: "版本",
    health: "运行状态",
    key: "API 密钥",
    keyAsk: "用于此标签页的密钥，关闭标签页后即清除。不需要密钥时留空。",
    yes: "确定",
    no: "取消",
    why: "原因（记入审计）",
    trouble: "操作未成功：{why}",
    away: "服务没有响应",
    noProducts: "尚未学习任何产品：请运行 goodpart train 或 make demo",
    choose: "选择图像…",
    drop: "将零件图像拖放到此处，或选择图像",
    stage: "零件与热力图：+ 和 − 缩放，方向键移动，0 显示全部",
    judging: "检测中…",
    nothing: "还没有零件",
    follow: "跟随产线",
    opacity: "热力图",
    zoomIn: "放大",
    zoomOut: "缩小",
    fit: "全图",
    ordinary: "正常",
    odd: "异常",
    recent: "最近的检测",
    ok: "合格",
    ng: "不合格",
    good: "合格",
    defective: "不合格",
    notKept: "此零件的图像未保留（GOODPART_KEEP_IMAGES）。",
    notShown: "浏览器无法显示此类图像；热力图仍可查看。",
    score: "异常分数",
    scoreOf: "异常分数 {score}，阈值 {threshold}",
    scale: "0 为合格件的平均值，1 为其离散程度",
    oddNone: "{of} 个合格件中没有一个如此异常。",
    oddOne: "{of} 个合格件中有 1 个如此异常。",
    oddMany: "{of} 个合格件中有 {many} 个同样或更加异常。",
    scales: "各尺度的贡献",
    stride: "步长 {stride} 像素",
    regions: "异常区域",
    noRegions: "没有超出合格件范围的区域。",
    region: "{width} × {height} 像素，位于 ({x}, {y})",
    expected: "合格件在此处的样子：",
    part: "零件",
    version: "版本",
    took: "耗时",
    image: "图像",
    confirm: "实际情况如何？",
    isGood: "是合格件",
    isDefective: "是不合格件",
    thresholdBy: "选择方式",
    byRate: "按误报率（被误判的合格件比例）",
    byValue: "按数值",
    rateLabel: "误报率（0 到 1）",
    valueLabel: "阈值",
    threshold: "阈值",
    thresholdNow: "当前 {threshold}：{from}。",
    fromCalibration: "版本自带，误报率不超过 {rate}",
    fromRate: "按误报率选择，误报率不超过 {rate}",
    fromValue: "按数值选择，校准用的合格件中有 {rate} 高于它",
    lastParts: "统计最近多少个零件",
    preview: "预览",
    apply: "启用…",
    lift: "恢复版本自带阈值…",
    previewed: "阈值 {threshold}：最近 {parts} 个零件中将有 {then} 个不合格；按当前阈值为 {now} 个。",
    previewedChange: "由合格变为不合格：{ng} 个；由不合格变为合格：{ok} 个。误报率承诺不超过 {rate}。",
    previewedNone: "历史记录中还没有此版本检测过的零件。",
    parts: "最近零件的异常分数；竖线为阈值",
    liftAsk: "对 {product} 恢复版本自带的阈值？",
    serves: "使用中",
    servesNothing: "{product} 没有可用的版本。",
    serving: "{product} 使用版本 {version}。",
    candidate: "候选版本，并行检测 {share} 的零件",
    created: "创建时间",
    method: "方法",
    teacher: "教师网络",
    promise: "承诺",
    state: "状态",
    actions: "操作",
    activate: "启用…",
    activateAsk: "对 {product} 启用版本 {version}？",
    rollback: "退回上一版本…",
    rollbackAsk: "对 {product} 退回上一版本？",
    shadow: "并行试用…",
    shadowAsk: "让 {version} 并行检测 {share} 的零件？结果仍以使用中的版本为准。",
    endShadow: "结束试用…",
    endShadowAsk: "结束候选版本的试用？",
    tally: "判断不同：{judged} 个中 {disagreed} 个",
    ready: "就绪",
    notReady: "未就绪",
    elsewhere: "运行状态由另一端口提供（GOODPART_HEALTH_PORT）。",
    throughput: "吞吐量",
    drift: "漂移",
    perMinute: "每分钟零件数",
    since: "启动以来零件数",
    share: "其中不合格",
    drifted: "异常分数与校准时不同：{distance}，超过 {limit}。光照或材料是否发生变化？",
    steady: "异常分数与校准时一致：{distance}，上限 {limit}。",
    filling: "已收集 {seen} / {window} 个异常分数，集满后检查。",
    themeAuto: "外观：自动",
    themeLight: "外观：浅色",
    themeDark: "外观：深色",
    keyIsNone: "密钥中不会有这样的字符",
    counts: "在此检测的零件与产线上的零件一样计入：历史记录、漂移检查以及对外发送的结果。",
    notJudged: "未能检测",
    oneImage: "一次只能检测一张图像",
    noHeatmap: "未能重新生成热力图；稍后可再次打开此零件。",
    warning: "警告",
    confirmTakesImage: "需要此零件的图像。",
    confirmedOk: "已记为合格，下次训练将从中学习。",
    confirmedNg: "已记为不合格，下一版本必须能检出。",
    rests: "{product} 的版本 {version} 处于休眠，需要时再载入。",
    fails: "已启用，但无法工作",
    candidateIs: "候选版本 {version}，并行检测 {share} 的零件；{came}",
    applyValue: "对 {product} 启用阈值 {value}？",
    applyRate: "对 {product} 启用误报率为 {value} 的阈值？",
    inference: "推理平均耗时 {ms} 毫秒（启动以来所有产品）。",
    noParts: "启动以来尚未检测零件。",
  },
};

/** What this browser keeps for the next visit; some keep nothing. */
export const kept = {
  get(name) {
    try {
      return localStorage.getItem(`goodpart.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`goodpart.${name}`, value);
    } catch {
      // then the next visit begins anew
    }
  },
};

let language = chosen();

/** The language of before, or the browser's, or English. */
function chosen() {
  const wanted = [kept.get("language"), ...navigator.languages].map((one) => one?.slice(0, 2));
  return wanted.find((one) => one in WORDS) ?? "en";
}

/** As the browser's person writes numbers and dates in this language: British, say, or American. */
const tag = () => navigator.languages.find((one) => one.startsWith(language)) ?? language;

/** Words in the language of now. */
export const t = (word, values = {}) => WORDS[language][word].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** A number for people. */
export const number = (value, digits = 2, most = digits) =>
  value.toLocaleString(tag(), { minimumFractionDigits: digits, maximumFractionDigits: most });

/** A share of 1 in percent. */
export const percent = (share) =>
  share.toLocaleString(tag(), { style: "percent", minimumSignificantDigits: 1, maximumSignificantDigits: 3 });

/** A moment for people, from an ISO time. */
export const moment = (at) =>
  new Date(at).toLocaleString(tag(), { dateStyle: "medium", timeStyle: "short" });

/** Take the other language, and write what stands in the page itself. */
export function speak(next = language) {
  language = next;
  kept.set("language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = t(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
}

/** The language that the button offers. */
export const otherLanguage = () => (language === "zh" ? "en" : "zh");
