// In the frame of a live page, which loads the report anew as trials finish: it says how far it was
// scrolled, and goes there when it is asked to.

if (window.parent !== window) {
  window.addEventListener("scroll", () => window.parent.postMessage({ scrolled: window.scrollY }, "*"), { passive: true });
  window.addEventListener("message", (event) => {
    if (event.source !== window.parent || !Number.isFinite(event.data?.scroll)) return;
    window.scrollTo({ top: event.data.scroll, behavior: "instant" });
  });
}
