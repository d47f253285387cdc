// Rates and clocks in the words of mitigation/dashboard/formats.py; a test compares the two.
window.dots = (() => {
  const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];
  const UNITS = { bits: "bit/s", packets: "pps" };

  const three = (scaled, whole) => {
    if (whole) return scaled.toFixed(0);
    if (scaled < 9.995) return scaled.toFixed(2);
    if (scaled < 99.95) return scaled.toFixed(1);
    return scaled.toFixed(0);
  };

  const rate = (value, kind) => {
    const unit = UNITS[kind];
    if (value == null) return "no data";
    if (value <= 0) return `0 ${unit}`;
    if (value < 1) return `< 1 ${unit}`;
    let power = Math.min(Math.floor(Math.log10(value) / 3), PREFIXES.length - 1);
    let text = three(value / 1000 ** power, power === 0);
    if (text === "1000" && power < PREFIXES.length - 1) { power += 1; text = "1.00"; }
    return `${text} ${PREFIXES[power]}${unit}`;
  };

  const two = (number) => String(number).padStart(2, "0");

  const left = (seconds) => {
    const total = Math.max(0, Math.floor(seconds));
    const hours = Math.floor(total / 3600), minutes = Math.floor(total / 60) % 60;
    if (total >= 86400) return `${Math.floor(total / 86400)} d ${hours % 24} h`;
    return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${two(minutes)}:${two(total % 60)}`;
  };

  const ago = (seconds) => {
    const total = Math.max(0, Math.floor(seconds));
    if (total < 30) return `${total} s ago`;
    if (total >= 3600 && total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor(total / 60) % 60} min ago`;
    return `${left(total)} ago`;
  };

  const clock = (milliseconds) => new Date(milliseconds).toISOString().slice(11, 19);

  return { rate, left, ago, clock };
})();
