// Every text of the console, in each language. Names in braces are placeholders.

export const WORDS = {
  en: {
    skip: "Skip to the content",
    product: "Product",
    inspect: "Inspect",
    versions: "Versions",
    health: "Health",
    key: "API key",
    keyAsk: "API key for this tab. It is kept until the tab is closed. Leave it empty if the service asks for none.",
    yes: "OK",
    no: "Cancel",
    why: "Reason (recorded in the audit log)",
    trouble: "The action failed: {why}",
    away: "the service does not answer",
    noProducts: "No product has been trained yet: run goodpart train, or make demo",
    choose: "Choose an image…",
    drop: "Drop an image of a part here, or choose one",
    stage: "Part with heat-map: + and − zoom, arrows move, 0 shows all",
    judging: "Inspecting…",
    nothing: "No part yet",
    follow: "Follow the line",
    opacity: "Heat-map",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    fit: "Whole",
    ordinary: "normal",
    odd: "anomalous",
    recent: "Recent inspections",
    ok: "GOOD",
    ng: "DEFECTIVE",
    good: "good",
    defective: "defective",
    notKept: "The image of this part was not kept (GOODPART_KEEP_IMAGES).",
    notShown: "This browser can't show this kind of image; the heat-map is over it.",
    score: "Score",
    scoreOf: "Score {score}, threshold {threshold}",
    scale: "0 is the mean of good parts; 1 is their spread",
    oddNone: "None of {of} good parts has a score this high.",
    oddOne: "1 of {of} good parts has a score this high.",
    oddMany: "{many} of {of} good parts have a score this high or higher.",
    scales: "Contribution of each scale",
    stride: "Stride {stride} px",
    regions: "Anomalous regions",
    noRegions: "No region stands out from good parts.",
    region: "{width} × {height} px at ({x}, {y})",
    expected: "Good parts there look like this:",
    part: "Part",
    version: "Version",
    took: "Time taken",
    image: "Image",
    confirm: "What is the part really?",
    isGood: "It is good",
    isDefective: "It is defective",
    thresholdBy: "Choose the threshold",
    byRate: "by its false-alarm rate (share of good parts rejected)",
    byValue: "by its value",
    rateLabel: "False-alarm rate (0 to 1)",
    valueLabel: "Threshold",
    threshold: "Threshold",
    thresholdNow: "Now {threshold}: {from}.",
    fromCalibration: "the version's own, false-alarm rate at most {rate}",
    fromRate: "chosen by rate, false-alarm rate at most {rate}",
    fromValue: "chosen by value; {rate} of the calibration's good parts are above it",
    lastParts: "Preview on the last N parts",
    preview: "Preview",
    apply: "Apply threshold…",
    lift: "Restore the version's threshold…",
    previewed: "Threshold {threshold}: of the last {parts} parts, {then} would be defective; with the current threshold, {now} are.",
    previewedChange: "Good now, defective then: {ng}. Defective now, good then: {ok}. Promised false-alarm rate: at most {rate}.",
    previewedNone: "The history holds no part inspected by this version yet.",
    parts: "Scores of the last parts; the line is the threshold",
    liftAsk: "Restore the version's own threshold for {product}?",
    serves: "Serving",
    servesNothing: "No version of {product} serves.",
    serving: "Version {version} serves {product}.",
    candidate: "Candidate, inspects {share} in shadow",
    created: "Created",
    method: "Method",
    teacher: "Teacher",
    promise: "Promise",
    state: "State",
    actions: "Actions",
    activate: "Activate…",
    activateAsk: "Activate {version} for {product}?",
    rollback: "Roll back…",
    rollbackAsk: "Roll {product} back to the previous version?",
    shadow: "Run in shadow…",
    shadowAsk: "Let {version} inspect {share} of the live parts in shadow? Answers still come from the version that serves.",
    endShadow: "End the shadow run…",
    endShadowAsk: "End the candidate's shadow run?",
    tally: "verdicts that differ: {disagreed} of {judged}",
    ready: "Ready",
    notReady: "Not ready",
    elsewhere: "Health is served on another port (GOODPART_HEALTH_PORT).",
    throughput: "Throughput",
    drift: "Drift",
    perMinute: "Parts a minute",
    since: "Parts since the start",
    share: "Share of defective parts",
    drifted: "Scores differ from those at calibration: distance {distance}, limit {limit}. Has the light or the material changed?",
    steady: "Scores match those at calibration: distance {distance}, limit {limit}.",
    filling: "{seen} of {window} scores collected for the next check.",
    themeAuto: "Theme: auto",
    themeLight: "Theme: light",
    themeDark: "Theme: dark",
    keyIsNone: "a key has no such characters",
    counts: "Parts inspected here count like parts of the line: in the history, in drift detection and in results sent to sinks.",
    notJudged: "Not inspected",
    oneImage: "one image at a time",
    noHeatmap: "The heat-map could not be rendered; open the part again later.",
    warning: "Warning",
    confirmTakesImage: "This requires the part's image.",
    confirmedOk: "Recorded as good; the next training learns from it.",
    confirmedNg: "Recorded as defective; the next version must detect it.",
    rests: "Version {version} of {product} is not in memory; it is loaded on the next request.",
    fails: "Activated, cannot serve",
    candidateIs: "Candidate {version} inspects {share} in shadow; {came}",
    applyValue: "Apply threshold {value} to {product}?",
    applyRate: "Apply the threshold for a false-alarm rate of {value} to {product}?",
    inference: "Mean inference time of all products since the start: {ms} ms.",
    noParts: "No part has been inspected since the start.",
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
    why: "原因（记入审计日志）",
    trouble: "操作未成功：{why}",
    away: "服务没有响应",
    noProducts: "尚未训练任何产品：请运行 goodpart train 或 make demo",
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
    lastParts: "用最近 N 个零件预览",
    preview: "预览",
    apply: "应用阈值…",
    lift: "恢复版本自带阈值…",
    previewed: "阈值 {threshold}：最近 {parts} 个零件中将有 {then} 个不合格；按当前阈值为 {now} 个。",
    previewedChange: "由合格变为不合格：{ng} 个；由不合格变为合格：{ok} 个。误报率承诺不超过 {rate}。",
    previewedNone: "历史记录中还没有此版本检测过的零件。",
    parts: "最近零件的异常分数；竖线为阈值",
    liftAsk: "对 {product} 恢复版本自带的阈值？",
    serves: "使用中",
    servesNothing: "{product} 没有可用的版本。",
    serving: "{product} 使用版本 {version}。",
    candidate: "候选版本，影子检测 {share} 的零件",
    created: "创建时间",
    method: "方法",
    teacher: "教师网络",
    promise: "承诺",
    state: "状态",
    actions: "操作",
    activate: "启用…",
    activateAsk: "对 {product} 启用版本 {version}？",
    rollback: "回滚…",
    rollbackAsk: "将 {product} 回滚到上一版本？",
    shadow: "影子运行…",
    shadowAsk: "让 {version} 以影子方式检测 {share} 的零件？结果仍以使用中的版本为准。",
    endShadow: "结束影子运行…",
    endShadowAsk: "结束候选版本的影子运行？",
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
    candidateIs: "候选版本 {version}，影子检测 {share} 的零件；{came}",
    applyValue: "对 {product} 应用阈值 {value}？",
    applyRate: "对 {product} 应用误报率为 {value} 的阈值？",
    inference: "推理平均耗时 {ms} 毫秒（启动以来所有产品）。",
    noParts: "启动以来尚未检测零件。",
  },
};

/** Values kept in localStorage for the next visit; a browser may refuse to keep them. */
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
      // the next visit starts with the defaults
    }
  },
};

let language = chosen();

/** The stored language, or the browser's, or English. */
function chosen() {
  const wanted = [kept.get("language"), ...navigator.languages].map((one) => one?.slice(0, 2));
  return wanted.find((one) => one in WORDS) ?? "en";
}

/** The browser's locale of this language, for numbers and dates. */
const tag = () => navigator.languages.find((one) => one.startsWith(language)) ?? language;

/** The text of a key in the current language. */
export const t = (word, values = {}) => WORDS[language][word].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Format a number. */
export const number = (value, digits = 2, most = digits) =>
  value.toLocaleString(tag(), { minimumFractionDigits: digits, maximumFractionDigits: most });

/** Format a share of 1 as a percentage. */
export const percent = (share) =>
  share.toLocaleString(tag(), { style: "percent", minimumSignificantDigits: 1, maximumSignificantDigits: 3 });

/** Format an ISO time. */
export const moment = (at) =>
  new Date(at).toLocaleString(tag(), { dateStyle: "medium", timeStyle: "short" });

/** Switch the language and write the texts of the page. */
export function speak(next = language) {
  language = next;
  kept.set("language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = t(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
}

/** The other language, which the button offers. */
export const otherLanguage = () => (language === "zh" ? "en" : "zh");
