/* A sound card's rates, channel counts and formats without a sound card, for alsa-lib's external I/O plugin: real
 * libasound, with its negotiation of parameters, on our side of it.
 *
 *   pcm_type.quietbox_card { lib "pcm_card.so" }
 *   pcm.mic { type quietbox_card rates "8000" channels "3 5" formats "S16_LE" live 2 }
 *   pcm.spk { type quietbox_card rates "48000" channels "4 8" formats "S16_LE" file "played.raw" }
 *   pcm.none { type quietbox_card refuse 13 }
 *
 * Capture: a square wave of 500 Hz on channel "live" (from 1), a hundredth of it on the others. Playback: what is
 * written goes to "file". Both run on the monotonic clock. "refuse" is the errno that every open ends with.
 */
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 32, AMPLITUDE = 8000 };

struct card {
	snd_pcm_ioplug_t io;
	int file, running;
	long live;
	int64_t began_ns;
	uint64_t moved; /* frames that the application has read or written since the start */
	uint64_t phase;
};

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int start(snd_pcm_ioplug_t *io)
{
	struct card *card = io->private_data;
	card->began_ns = now_ns();
	card->running = 1;
	return 0;
}

static int stop(snd_pcm_ioplug_t *io)
{
	((struct card *)io->private_data)->running = 0;
	return 0;
}

static int prepare(snd_pcm_ioplug_t *io)
{
	struct card *card = io->private_data;
	int64_t period_ns = 1000000000LL * io->period_size / io->rate;
	struct itimerspec tick = {{period_ns / 1000000000, period_ns % 1000000000}, {0, period_ns / 2 + 1}};
	timerfd_settime(io->poll_fd, 0, &tick, NULL);
	card->moved = card->running = 0;
	return 0;
}

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io)
{
	struct card *card = io->private_data;
	uint64_t gone = card->running ? (uint64_t)((now_ns() - card->began_ns) * (double)io->rate / 1e9) : 0;
	if (card->running && io->stream == SND_PCM_STREAM_PLAYBACK && gone > card->moved)
		return -EPIPE;
	if (card->running && io->stream == SND_PCM_STREAM_CAPTURE && gone > card->moved + io->buffer_size)
		return -EPIPE;
	return gone % io->buffer_size;
}

static char *place(const snd_pcm_channel_area_t *area, snd_pcm_uframes_t frame)
{
	return (char *)area->addr + (area->first + area->step * frame) / 8;
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
				  snd_pcm_uframes_t size)
{
	struct card *card = io->private_data;
	unsigned int width = snd_pcm_format_physical_width(io->format) / 8;
	int shift = snd_pcm_format_width(io->format) - 16;
	if (io->stream == SND_PCM_STREAM_PLAYBACK) { /* interleaved: one block */
		ssize_t bytes = size * io->channels * width;
		if (card->file >= 0 && write(card->file, place(&areas[0], offset), bytes) != bytes)
			return -EIO;
		card->moved += size;
		return size;
	}
	for (snd_pcm_uframes_t frame = 0; frame < size; frame++, card->phase++)
		for (unsigned int channel = 0; channel < io->channels; channel++) {
			int high = card->phase * 1000 / io->rate % 2;
			int32_t value = (high ? AMPLITUDE : -AMPLITUDE) / (channel + 1 == (unsigned long)card->live ? 1 : 100);
			value = (int32_t)((uint32_t)value << shift);
			memcpy(place(&areas[channel], offset + frame), &value, width);
		}
	card->moved += size;
	return size;
}

static int revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned int count, unsigned short *events)
{
	uint64_t ticks;
	(void)count;
	*events = fds[0].revents & POLLIN ? (io->stream == SND_PCM_STREAM_PLAYBACK ? POLLOUT : POLLIN) : 0;
	if (*events && read(io->poll_fd, &ticks, sizeof(ticks)) < 0)
		*events = 0;
	return 0;
}

static int finish(snd_pcm_ioplug_t *io)
{
	struct card *card = io->private_data;
	close(io->poll_fd);
	if (card->file >= 0)
		close(card->file);
	free(card);
	return 0;
}

static const snd_pcm_ioplug_callback_t calls = {
	.start = start, .stop = stop, .prepare = prepare, .pointer = pointer, .transfer = transfer, .close = finish,
	.poll_revents = revents,
};

/* Numbers or format names in `text`, separated by blanks; 0 where there is no text. */
static unsigned int listed(const char *text, int formats, unsigned int *found)
{
	unsigned int count = 0;
	char copy[512], *rest = copy;
	snprintf(copy, sizeof(copy), "%s", text ? text : "");
	for (char *word; count < MOST && (word = strsep(&rest, " ")); )
		if (*word)
			found[count++] = formats ? (unsigned int)snd_pcm_format_value(word) : (unsigned int)atoi(word);
	return count;
}

static int limit(snd_pcm_ioplug_t *io, int type, const char *text)
{
	unsigned int found[MOST], count = listed(text, type == SND_PCM_IOPLUG_HW_FORMAT, found);
	return count ? snd_pcm_ioplug_set_param_list(io, type, count, found) : 0;
}

SND_PCM_PLUGIN_DEFINE_FUNC(quietbox_card)
{
	static const unsigned int access[] = {SND_PCM_ACCESS_RW_INTERLEAVED, SND_PCM_ACCESS_MMAP_INTERLEAVED};
	static const unsigned int apart[] = {SND_PCM_ACCESS_RW_NONINTERLEAVED};
	const char *rates = NULL, *channels = NULL, *formats = NULL, *file = NULL;
	long live = 1, refuse = 0, planes = 0;
	snd_config_iterator_t at, next;
	(void)root;
	snd_config_for_each(at, next, conf) {
		snd_config_t *entry = snd_config_iterator_entry(at);
		const char *id;
		if (snd_config_get_id(entry, &id) < 0)
			continue;
		if (!strcmp(id, "rates")) snd_config_get_string(entry, &rates);
		if (!strcmp(id, "channels")) snd_config_get_string(entry, &channels);
		if (!strcmp(id, "formats")) snd_config_get_string(entry, &formats);
		if (!strcmp(id, "file")) snd_config_get_string(entry, &file);
		if (!strcmp(id, "live")) snd_config_get_integer(entry, &live);
		if (!strcmp(id, "planes")) snd_config_get_integer(entry, &planes);
		if (!strcmp(id, "refuse")) snd_config_get_integer(entry, &refuse);
	}
	if (refuse)
		return -(int)refuse;
	struct card *card = calloc(1, sizeof(*card));
	if (!card)
		return -ENOMEM;
	card->live = live;
	card->file = file ? open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
	card->io.version = SND_PCM_IOPLUG_VERSION;
	card->io.name = "quietbox test card";
	card->io.callback = &calls;
	card->io.private_data = card;
	card->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	card->io.poll_events = POLLIN;
	card->io.mmap_rw = 0;
	int error = snd_pcm_ioplug_create(&card->io, name, stream, mode);
	if (error < 0) {
		finish(&card->io);
		return error;
	}
	if ((error = snd_pcm_ioplug_set_param_list(&card->io, SND_PCM_IOPLUG_HW_ACCESS, planes ? 1 : 2, planes ? apart : access)) < 0 ||
	    (error = limit(&card->io, SND_PCM_IOPLUG_HW_RATE, rates)) < 0 ||
	    (error = limit(&card->io, SND_PCM_IOPLUG_HW_CHANNELS, channels)) < 0 ||
	    (error = limit(&card->io, SND_PCM_IOPLUG_HW_FORMAT, formats)) < 0 ||
	    (error = snd_pcm_ioplug_set_param_minmax(&card->io, SND_PCM_IOPLUG_HW_BUFFER_BYTES, 64, 4 << 20)) < 0) {
		snd_pcm_ioplug_delete(&card->io);
		return error;
	}
	*pcmp = card->io.pcm;
	return 0;
}

SND_PCM_PLUGIN_SYMBOL(quietbox_card);
